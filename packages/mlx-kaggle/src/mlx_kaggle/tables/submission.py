"""Write a submission and check it against the competition's sample."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle._atomic import write_atomic
from mlx_kaggle.errors import DataError
from mlx_kaggle.tables.competition import Competition, row_count
from mlx_kaggle.tables.submission_format import (
    Asked,
    Format,
    default_format,
    probability_format,
    read_format,
)
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Table, is_missing


def known_format(competition: Competition, probabilities: bool = False) -> Format:
    """The format of the sample the run knows, or the usual one."""
    asked = asked_of(competition)
    form = competition.submission
    if form is None and competition.submission_columns:  # a run of an earlier version
        sample: Table = {name: [] for name in competition.submission_columns}
        form = read_format(sample, "the sample submission", asked, None)
    form = form or default_format(asked)
    return probability_format(form, asked) if probabilities else form


def asked_of(competition: Competition) -> Asked:
    """What is predicted, as far as the format of a submission depends on it."""
    return Asked(
        competition.target,
        competition.task,
        competition.metric,
        competition.classes,
        competition.id_column,
    )


def submission_columns(
    competition: Competition,
    ids: Sequence[Any] | Mapping[str, Sequence[Any]],
    prediction: np.ndarray,
    probabilities: bool,
    form: Format | None = None,
) -> dict[str, list[Any]]:
    """Columns of the submission: those of the sample where the run knows one.

    `ids` are the cells of the id column, or of each where there are several. `prediction` has their
    rows. Without a sample, classes are spelled as in training, and probabilities are given when
    asked for or needed by the metric: the positive class of a binary task, else one column a class.
    """
    form = form or known_format(competition, probabilities)
    given = ids if isinstance(ids, Mapping) else dict.fromkeys(form.ids[:1], ids)
    names, classes = form.predictions, competition.classes
    columns: dict[str, list[Any]] = {name: list(cells) for name, cells in given.items()}
    if form.content == "value":
        columns[names[0]] = [float(value) for value in prediction]
    elif form.content == "probability":
        columns[names[0]] = [float(value) for value in prediction[:, 1]]
    elif form.content == "classes":
        for name, label in zip(names, form.classes, strict=True):
            columns[name] = [float(value) for value in prediction[:, classes.index(label)]]
    else:
        labels = Target(competition).labels(prediction)
        columns[names[0]] = [form.spelling.get(label, label) for label in labels]
    return {name: columns[name] for name in form.columns}


def write_submission(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write a CSV with LF line ends, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)


def check_submission(
    submission: Table, sample: Table, file: str, sample_file: str, ids: Sequence[str] | None = None
) -> str:
    """Compare columns, row count, ids and cells; return one line saying what was checked.

    Raises `DataError` naming the first difference. Rows may stand in another order.
    """
    if list(submission) != list(sample):
        raise DataError(
            f"{file}: columns are {', '.join(submission)}; {sample_file} has {', '.join(sample)}"
        )
    if row_count(submission) != row_count(sample):
        raise DataError(
            f"{file}: {row_count(submission)} rows; {sample_file} has {row_count(sample)}"
        )
    ids = list(sample)[:1] if ids is None else ids
    for id_name in ids:
        wanted = {str(value) for value in sample[id_name]}
        wrong = [value for value in submission[id_name] if str(value) not in wanted]
        if wrong:
            raise DataError(
                f"{file}: id {wrong[0]!r} is not in {sample_file} ({len(wrong)} such ids)"
            )
    for name in [name for name in sample if name not in ids]:
        numbers = all(_is_number(cell) for cell in sample[name])
        for row, cell in enumerate(submission[name]):
            if is_missing(cell) or (numbers and not _is_number(cell)):
                kind = "a number" if numbers else "a value"
                raise DataError(f"{file}, row {row + 2}: {name} is {cell!r}, not {kind}")
    return f"columns, {row_count(sample)} ids and values agree with {sample_file}"


def _is_number(cell: Any) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except (TypeError, ValueError):
        return False
