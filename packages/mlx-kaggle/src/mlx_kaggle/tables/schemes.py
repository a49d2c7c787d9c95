"""How rows are divided into folds: by class, by group, by time, or by a file; and a proposal."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from mlx_kaggle import DataError
from mlx_kaggle.settings.sections import CvSettings
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition, list_names
from mlx_kaggle.tables.dependence import Dependence
from mlx_kaggle.tables.splits import Split, split_rows, strata_of, time_splits
from mlx_tabtext import Table, date_values, is_missing, numeric_values, read_table
from mlx_tabtext.dates import find_date_format
from mlx_trainer import did_you_mean

PART = re.compile(r"(?P<column>.*)\[(?P<part>\d+)\]")
SEPARATORS = re.compile(r"[^0-9A-Za-z]+")
# A proposal needs groups of several rows, many of them, whose rows share the target by far more
# than shuffled groups do, in standard deviations.
MOST_GROUPS, FEWEST_GROUPS, LARGEST, SURE, SHUFFLES = 0.9, 20, 30, 6.0, 100
# And so many rows with another target than the most frequent one.
RAREST = 30
# Rows of the test table with a group of the training table, at most.
SHARED = 0.05


def divide(
    cv: CvSettings,
    competition: Competition,
    table: Table,
    encoded: np.ndarray,
    rows: np.ndarray,
    count: int,
    file: str,
    folds: int,
    fraction: float,
    seed: int,
) -> tuple[list[Split], Dependence | None, list[str]]:
    """Return the splits (training rows, validation rows) of a scheme, their dependence, and notes.

    `rows` (N,) are the positions of the rows of `table` in the training `file`, which has `count`
    rows. Without folds there is one split, of `fraction`. Raises `DataError` if the scheme does not
    fit the table.
    """
    task = competition.task
    if cv.scheme == "group":
        return _by_group(cv, competition, table, encoded, file, folds, fraction, seed)
    if cv.scheme == "time":
        when = _times(table, _column(cv.time or "", table, file, "--cv-time"), file)
        step = np.unique(when, return_inverse=True)[1]
        splits = time_splits(step, step + 1, folds, fraction)
        left = len(step) - sum(len(held) for _, held in splits)
        note = (f"folds are later in {cv.time} than their training rows: {left} of {len(step)} "
                f"rows, the first ones, are never validated")  # fmt: skip
        return splits, Dependence("time", step), [note]
    if cv.scheme.endswith(".csv"):
        splits, notes = _by_file(cv.scheme, competition, table, rows, count, file, folds)
        return splits, None, notes
    if cv.scheme == "regression-bins" and task not in VALUE_TASKS:
        raise DataError(f"--cv regression-bins is for numbers, but the task is {task}; the scheme "
                        f"stratified divides classes")  # fmt: skip
    return split_rows(encoded, task, folds, fraction, seed), None, []


def _by_group(
    cv: CvSettings,
    competition: Competition,
    table: Table,
    encoded: np.ndarray,
    file: str,
    folds: int,
    fraction: float,
    seed: int,
) -> tuple[list[Split], Dependence, list[str]]:
    groups = groups_of(table, cv.group or "", file)
    count, parts = len(np.unique(groups)), folds or max(2, round(1 / fraction))
    if count < parts:
        raise DataError(f"{file}: {cv.group} has {count} groups, fewer than {parts} folds; give "
                        f"fewer --folds, or another --group")  # fmt: skip
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    strata = strata_of(encoded, competition.task)
    with warnings.catch_warnings():  # about small classes, which the notes are about
        warnings.simplefilter("ignore", UserWarning)
        try:
            splits = list(splitter.split(strata, strata, groups))[: folds or 1]
        except ValueError as error:
            raise DataError(f"{file}: --cv group: {error}") from None
    notes = [f"folds keep the {count} groups of {cv.group} together, of {len(groups)} rows"]
    if alone := len(groups) - len(_labels(table, cv.group or "")):
        notes.append(f"{alone} rows have no {cv.group}: each is a group of its own")
    if competition.classes and encoded.ndim == 1:
        for number, (train, _) in enumerate(splits):
            lacking = np.setdiff1d(encoded, encoded[train])
            if len(lacking):
                notes.append(f"fold {number} trains on no row of {len(lacking)} classes, such as "
                             f"{competition.classes[lacking[0]]!r}")  # fmt: skip
    return splits, Dependence("group", groups), notes


def groups_of(table: Table, name: str, file: str) -> np.ndarray:
    """Return the group number (N,) of each row: of the cells of a column, or of a part of them.

    `Id[0]` are the characters of `Id` before the first that is no letter or digit, `Id[1]` those
    after it. A row without a value is a group of its own.
    """
    match = PART.fullmatch(name)
    if match and name not in table:
        column = _column(match["column"], table, file, "--group")
        cells = [_part(cell, int(match["part"])) for cell in table[column]]
    else:
        cells = [
            None if is_missing(c) else str(c) for c in table[_column(name, table, file, "--group")]
        ]
    labels = [f"\0{row}" if cell is None else cell for row, cell in enumerate(cells)]
    return np.unique(labels, return_inverse=True)[1]


def _part(cell: Any, number: int) -> str | None:
    parts = [] if is_missing(cell) else SEPARATORS.split(str(cell).strip())
    return parts[number] if number < len(parts) else None


def _column(name: str, table: Table, file: str, flag: str) -> str:
    if name not in table:
        raise DataError(f"{file}: {flag}: no column {name!r}{did_you_mean(name, table)}")
    return name


def _times(table: Table, name: str, file: str) -> np.ndarray:
    """Return the time (N,) of each row, in days or as its number."""
    texts = [str(cell) for cell in table[name] if not is_missing(cell)]
    form = find_date_format(texts)
    when = (
        date_values(table, name, "days", date_format=form) if form else numeric_values(table, name)
    )
    when = np.asarray(when, np.float64)
    if (bad := np.flatnonzero(~np.isfinite(when))).size:
        raise DataError(
            f"{file}, row {bad[0] + 2}: {name} is {table[name][bad[0]]!r}, no time that orders the "
            f"rows ({len(bad)} such rows); give another --cv-time"
        )
    return when


def _by_file(
    path: str,
    competition: Competition,
    table: Table,
    rows: np.ndarray,
    count: int,
    file: str,
    folds: int,
) -> tuple[list[Split], list[str]]:
    """Read folds by id, or by the rows of the training file; fold -1 is only trained on."""
    found = read_table(path)
    if "fold" not in found:
        raise DataError(f"{path}: needs a column fold, has {', '.join(found)}")
    numbers, notes = _fold_numbers(found["fold"], path), list[str]()
    name = competition.id_column
    if name and name in found:
        by_id = dict(zip(map(str, found[name]), numbers, strict=True))
        if len(by_id) < len(numbers):
            raise DataError(f"{path}: {len(numbers) - len(by_id)} rows repeat an id of {name}")
        lacking = [cell for cell in table[name] if str(cell) not in by_id]
        if lacking:
            raise DataError(f"{path}: has no fold of {len(lacking)} rows of {file}, such as {name} "
                            f"{lacking[0]}")  # fmt: skip
        fold = np.array([by_id[str(cell)] for cell in table[name]])
        if more := len(by_id) - len(fold):
            notes.append(f"{path}: {more} ids are not among the rows of {file} with a target")
    elif others := [each for each in found if each != "fold"]:
        wanted = f"no column {name!r}" if name else "columns that are no ids"
        raise DataError(f"{path}: has {wanted}, but {list_names(others, 3)}; to take the folds in "
                        f"the order of the rows, leave only the column fold")  # fmt: skip
    elif len(numbers) != count:
        raise DataError(f"{path}: has {len(numbers)} folds, but {file} has {count} rows")
    else:
        fold = np.array(numbers)[rows]
    names = np.unique(fold[fold >= 0])
    if len(names) < 2 or len(names) != folds:
        advice = f"add --folds {len(names)}" if len(names) > 1 else "give 2 or more"
        raise DataError(f"{path}: has {len(names)} folds; {advice}")
    splits = [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in names]
    left = int((fold < 0).sum())
    notes += [f"{path}: {left} rows of fold -1 are only trained on"] if left else []
    return splits, notes


def _fold_numbers(cells: Sequence, path: str) -> list[int]:
    numbers = []
    for row, cell in enumerate(cells):
        text = str(cell).removesuffix(".0").strip()
        if not re.fullmatch(r"-1|\d+", text):
            raise DataError(f"{path}, row {row + 2}: fold is {cell!r}, must be a number from 0 on, "
                            f"or -1 for never")  # fmt: skip
        numbers.append(int(text))
    return numbers


def propose(
    competition: Competition, table: Table, encoded: np.ndarray, test: Table | None, seed: int
) -> list[str]:
    """Return notes that name the flags of a better scheme, for groups or times in the data.

    Groups are proposed if their rows share the target by far more than chance and the test table,
    if known, has other groups; times if all of the test table are later.
    """
    notes = []
    for name in _candidates(competition, table):
        if note := _propose_group(name, competition, table, encoded, test, seed):
            notes.append(note)
            break
    dates = [c.name for c in competition.schema.columns if c.kind == "date" and c.name in table]
    for name in dates if test else []:
        assert test is not None
        if name in test and _is_later(table, test, name):
            notes.append(f"all of {name} in the test table are later than in the training table: "
                         f"--cv time --cv-time {name} validates on later rows too")  # fmt: skip
            break
    return notes


def _candidates(competition: Competition, table: Table) -> list[str]:
    """Return parts of the id, then columns of categories or short texts."""
    names = []
    if name := competition.id_column:
        width = len(SEPARATORS.split(str(table[name][0]).strip()))
        names += [f"{name}[{part}]" for part in range(width)] if width > 1 else []
    kinds = ("categorical", "text", "ignored")
    return names + [
        c.name for c in competition.schema.columns if c.kind in kinds and c.name in table
    ]


def _propose_group(
    name: str,
    competition: Competition,
    table: Table,
    encoded: np.ndarray,
    test: Table | None,
    seed: int,
) -> str | None:
    groups = groups_of(table, name, "")
    counts = np.bincount(groups)
    rows, many = len(groups), counts[counts > 1]
    values = strata_of(encoded, competition.task).astype(np.float64)
    if rows - np.unique(values, return_counts=True)[1].max() < RAREST:
        return None  # so few other targets that shuffles hardly differ
    if not FEWEST_GROUPS <= len(counts) <= MOST_GROUPS * rows or len(many) < FEWEST_GROUPS:
        return None
    column = PART.sub(r"\g<column>", name)
    if counts.max() > max(LARGEST, rows // 20) or (test is not None and column not in test):
        return None
    if test is not None:
        seen = set(_labels(table, name))
        shared = np.mean([label in seen for label in _labels(test, name)])
        if shared > SHARED:
            return None  # new rows come from known groups, as random folds have them
    rng = np.random.default_rng(seed)
    found = _within(values, groups)
    chance = [_within(rng.permutation(values), groups) for _ in range(SHUFFLES)]
    sure = (np.mean(chance) - found) / max(float(np.std(chance)), 1e-12)
    if sure < SURE:
        return None
    new = (
        "the test table has other groups" if test is not None else "if new rows are of other groups"
    )
    return (
        f"rows with the same {name} ({len(counts)} groups of {rows} rows) share the target far "
        f"more than chance, and {new}: --cv group --group '{name}' keeps a group in one fold"
    )


def _labels(table: Table, name: str) -> list[str]:
    match = PART.fullmatch(name)
    if match and name not in table:
        cells = [_part(cell, int(match["part"])) for cell in table[match["column"]]]
        return [cell for cell in cells if cell is not None]
    return [str(cell) for cell in table[name] if not is_missing(cell)]


def _within(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean squared difference of a row to its group."""
    means = np.bincount(groups, values) / np.bincount(groups)
    return float(np.square(values - means[groups]).mean())


def _is_later(table: Table, test: Table, name: str) -> bool:
    try:
        return _times(test, name, "").min() > _times(table, name, "").max()
    except DataError:
        return False
