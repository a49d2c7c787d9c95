"""A submission: its columns, and the place of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import (
    Competition,
    Format,
    list_names,
)
from mlx_kaggle.tables.files import index_ids, row_count
from mlx_kaggle.tables.formats import known_format
from mlx_kaggle.tables.targets import Target, point
from mlx_tabtext import Table


def submission_columns(
    competition: Competition,
    ids: Sequence[Any] | Mapping[str, Sequence[Any]],
    prediction: np.ndarray,
    probabilities: bool,
    form: Format | None = None,
    codes: np.ndarray | None = None,
) -> dict[str, list[Any]]:
    """Return the columns of a submission, by default in the format seen in training.

    `ids` are the cells of the id column, or of each of several; `prediction` has the same rows, and
    so have `codes`, the class numbers (N,) or labels (N, labels), by default those of
    `Target.default_codes`. Without a sample, classes are spelled as in training. With
    `probabilities`, or if the metric needs them, they replace the classes: of the second class of a
    binary task, of each label, else one column per class. `interval_columns` are not included.
    """
    form = form or known_format(competition, probabilities)
    given = ids if isinstance(ids, Mapping) else dict.fromkeys(form.ids[:1], ids)
    names, classes = form.predictions, competition.classes
    columns: dict[str, list[Any]] = {name: list(cells) for name, cells in given.items()}
    if form.content in ("probability", "classes") and prediction.ndim == 1:
        raise DataError(
            f"{competition.target!r} is predicted as a number, without probabilities of classes; "
            f"give a sample submission of labels, or train with another --loss"
        )
    outputs = point(prediction)
    if form.content == "label":
        outputs = Target(competition).default_codes(prediction) if codes is None else codes
        assert outputs is not None
    if form.targets:
        for name, target in zip(names, form.targets, strict=True):
            columns[name] = outputs[:, competition.targets.index(target)].tolist()
            if form.content == "label":
                labels = map(str, columns[name])
                columns[name] = [form.spelling.get(label, label) for label in labels]
    elif form.content == "value":
        columns[names[0]] = [float(value) for value in outputs]
    elif form.content == "probability":
        columns[names[0]] = [float(value) for value in outputs[:, 1]]
    elif form.content == "classes":
        for name, label in zip(names, form.classes, strict=True):
            columns[name] = [float(value) for value in outputs[:, classes.index(label)]]
    else:
        labels = [classes[code] for code in outputs]
        columns[names[0]] = [form.spelling.get(label, label) for label in labels]
    return {name: columns[name] for name in form.columns}


def interval_columns(targets: Sequence[str], prediction: np.ndarray) -> dict[str, list[Any]]:
    """Return "y lower" and "y upper" of each target of (N, targets, 3); none without intervals."""
    if prediction.ndim < 3:
        return {}
    return {
        f"{target} {bound}": prediction[:, at, side].tolist()
        for at, target in enumerate(targets)
        for side, bound in ((1, "lower"), (2, "upper"))
    }


def place_rows(
    form: Format, sample: Table, file: str, test: Table, test_file: str
) -> tuple[dict[str, list[Any]], np.ndarray, list[str]]:
    """Return the ids of the sample, the position in `test` of each of its rows, and notes.

    Raises `DataError` if ids repeat, or if the test table does not have all ids of the sample.
    """
    if not form.ids:
        rows, wanted = row_count(test), row_count(sample)
        if rows != wanted:
            raise DataError(f"{test_file}: {rows} rows, but {file} has no ids and {wanted} rows")
        return {}, np.arange(rows), []
    wanted = index_ids([_stripped(sample[name]) for name in form.ids], form.ids, file)
    sources = [_source(name, sample[name], file, test, test_file, form) for name in form.ids]
    found = index_ids([_stripped(test[name]) for name in sources], sources, test_file)
    missing = [key for key in wanted if key not in found]
    if missing:
        raise DataError(
            f"{file}: {len(missing)} of its {len(wanted)} ids are not in {test_file} (first: row "
            f"{wanted[missing[0]] + 2}, {', '.join(missing[0])!r}); give two files that belong "
            f"together"
        )
    extra = len(found) - len(wanted)
    first = next((key for key in found if key not in wanted), ())
    notes = [f"{extra} of {len(found)} rows of {test_file} are not in {file} and not written "
             f"(first: {', '.join(first)!r})"] if extra else []  # fmt: skip
    ids = {name: list(sample[name]) for name in form.ids}
    return ids, np.array([found[key] for key in wanted]), notes


def _source(
    name: str, ids: Sequence[Any], file: str, test: Table, test_file: str, form: Format
) -> str:
    """Return the test column with the ids of a sample column: by name, else by cells."""
    if name in test:
        return name
    wanted = _stripped(ids)
    for other, cells in test.items():
        if other not in form.ids and set(wanted) <= set(_stripped(cells)):
            return other
    first = wanted[0] if wanted else ""
    raise DataError(
        f"{file}: its ids, column {name!r} (first: {first!r}), are in no column of {test_file} "
        f"({list_names(list(test))})"
    )


def _stripped(cells: Sequence[Any]) -> list[str]:
    return [str(cell).strip() for cell in cells]
