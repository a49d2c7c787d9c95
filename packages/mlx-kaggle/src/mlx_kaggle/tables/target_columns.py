"""Which columns are predicted: as named, or found in the sample submission or the table."""

from collections.abc import Mapping, Sequence
from itertools import dropwhile, groupby, takewhile
from typing import Any

from mlx_kaggle import DataError
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.columns import is_one_hot, label_pair
from mlx_kaggle.tables.competition import list_names
from mlx_kaggle.tables.files import Tables
from mlx_kaggle.tables.tasks import NAMES_SHOWN, distinct_numbers
from mlx_tabtext import Table
from mlx_trainer import did_you_mean


def find_targets(
    data: DataSettings, tables: Tables, task: str | None, sample_file: str
) -> tuple[tuple[str, ...], list[str]]:
    """Return the target columns, and a note on each choice that was not spelled out.

    Without `--target` and `--targets` they are the columns of the sample submission after its ids,
    and without these the labels of a multilabel task are the longest run of adjacent 0/1 columns.
    Raises `DataError` if nothing is found, or not exactly one thing.
    """
    train = tables.train
    if data.targets:
        names = name_columns(data.targets, train, data.train, ranges=True)
        count = "1 column" if len(names) == 1 else f"{len(names)} columns"
        return names, [f"--targets {data.targets} is {count}: {list_names(names, NAMES_SHOWN)}"]
    if data.target:
        return name_columns(data.target, train, data.train), []
    if names := _sample_targets(tables, task):
        listed = list_names(names, NAMES_SHOWN)
        what = f"target {names[0]!r}, the column"
        what = what if len(names) == 1 else f"{len(names)} targets ({listed}), the columns"
        return names, [f"{what} of {sample_file}; for another, add --target"]
    if task == "multilabel":
        names = _adjacent_labels(train, tables.test, data.train)
        return names, [
            f"{len(names)} labels ({list_names(names, NAMES_SHOWN)}), the longest run of adjacent "
            f"columns of 0 and 1; for others, add --targets"
        ]
    raise DataError(f"no target given; name the column to predict: --target {'|'.join(train)}")


def name_columns(
    text: str, train: Mapping[str, Any], file: str, ranges: bool = False
) -> tuple[str, ...]:
    """Return the columns of a list with commas, with `ranges` also `first:last` in table order.

    A column whose name has a comma or colon is found by its whole name.
    """
    parts = text.split(",")
    # The most parts of one column, or of both ends of a range.
    most = max(name.count(",") for name in train) * (2 if ranges else 1) + 1
    names: list[str] = []
    start = 0
    while start < len(parts):
        for stop in range(min(start + most, len(parts)), start, -1):
            found = _named(",".join(parts[start:stop]), train, file, ranges)
            if found:
                break
        else:
            raise DataError(_unknown_column(parts[start].strip(), train, file, ranges))
        names += found
        start = stop
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"target {name!r} is given twice: {text}")
    return tuple(names)


def _named(text: str, train: Mapping[str, Any], file: str, ranges: bool) -> list[str]:
    for name in (text, text.strip()):
        if name in train:
            return [name]
    for at in [at for at, letter in enumerate(text) if letter == ":" and ranges]:
        first, last = text[:at].strip(), text[at + 1 :].strip()
        if first in train and last in train:
            columns = list(train)
            if columns.index(first) > columns.index(last):
                raise DataError(
                    f"{file}: column {first!r} is after {last!r}; a range of --targets goes from "
                    f"first to last: --targets '{last}:{first}'"
                )
            return columns[columns.index(first) : columns.index(last) + 1]
    return []


def _unknown_column(name: str, train: Mapping[str, Any], file: str, ranges: bool) -> str:
    first, colon, last = (part.strip() for part in name.partition(":"))
    if colon and ranges:
        name = first if first not in train else last
    elif colon and first in train and last in train:
        return f"{file}: no column {name!r} for the target; a range needs --targets '{name}'"
    return f"{file}: no column {name!r} for the target{did_you_mean(name, train)}"


def _sample_targets(tables: Tables, task: str | None) -> tuple[str, ...]:
    """Return the columns of the sample after its ids, if they fit the task; else nothing."""
    sample, train, test = tables.sample_submission, tables.train, tables.test
    names = list(sample or ())
    if task == "multilabel":
        known = {name for name in names if name in train and label_pair(train[name], True)}
        asked = list(dropwhile(lambda name: name not in known, names))
    else:
        # A labelled test table has all columns of the sample, so only the first is taken as an id.
        known = test if test is not None and not all(name in test for name in names) else {}
        ids = list(takewhile(lambda name: name in known, names)) or names[: len(names) > 1]
        asked = names[len(ids) :]
    if not asked or any(name not in train for name in asked):
        return ()
    if len(asked) == 1:
        return tuple(asked) if task != "multilabel" else ()
    labels = all(label_pair(train[name], task == "multilabel") for name in asked)
    numbers = all(distinct_numbers(train[name]) is not None for name in asked)
    fits = labels if task == "multilabel" else (labels and task is None) or numbers
    return tuple(asked) if fits and task in (None, "multilabel", "regression") else ()


def _adjacent_labels(train: Table, test: Table | None, file: str) -> tuple[str, ...]:
    pairs = {name: label_pair(cells, unscored=True) for name, cells in train.items()}
    if test is not None and any(pair and name not in test for name, pair in pairs.items()):
        pairs |= dict.fromkeys(test)  # these are known when predicting
    groups = [(pair, list(names)) for pair, names in groupby(train, lambda name: pairs[name])]
    runs = [names for pair, names in groups if pair and len(names) > 1]
    found = [names for names in runs if not is_one_hot([train[name] for name in names])]
    found = [names for names in found if len(names) == max(map(len, found))]
    remedy = "name the labels: --targets FIRST:LAST"
    if not found:
        listed = list_names(runs[0], NAMES_SHOWN) if runs else ""
        why = f"each row has one 1 in {listed}, as one class does" if runs else (
            "no two adjacent columns have only 0 and 1")  # fmt: skip
        raise DataError(f"{file}: no labels found for --task multilabel: {why}; {remedy}")
    if len(found) > 1:
        raise DataError(
            f"{file}: {len(found)} runs of {len(found[0])} adjacent columns of 0 and 1 could be "
            f"the labels ({_run(found[0])} and {_run(found[1])}); {remedy}"
        )
    return tuple(found[0])


def _run(names: Sequence[str]) -> str:
    return f"{names[0]}:{names[-1]}"
