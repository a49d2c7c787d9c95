"""Write a submission and check it against the competition's sample."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_heads import get_metric
from mlx_kaggle._atomic import write_atomic
from mlx_kaggle.competition import Competition, row_count
from mlx_kaggle.errors import DataError
from mlx_kaggle.targets import Target
from mlx_tabtext import Table, is_missing


def submission_columns(
    competition: Competition, ids: Sequence[Any], prediction: np.ndarray, probabilities: bool
) -> dict[str, list[Any]]:
    """Columns of the submission, in the sample's order and names when the run knows a sample.

    Classes are spelled as in training; probabilities are given when asked for, or when the metric
    needs them: the positive class of a binary task, one column a class otherwise.
    """
    id_name, names = _names(competition)
    columns: dict[str, list[Any]] = {id_name: list(ids)} if id_name else {}
    classes = competition.classes
    wants = probabilities or get_metric(competition.metric).needs == "probability"
    if competition.task == "regression":
        columns[names[0]] = [float(value) for value in prediction]
    elif set(names) == set(classes) or (wants and competition.task == "multiclass"):
        for label in names if set(names) == set(classes) else classes:
            columns[label] = [float(value) for value in prediction[:, classes.index(label)]]
    elif wants:
        columns[names[0]] = [float(value) for value in prediction[:, 1]]
    else:
        columns[names[0]] = Target(competition).labels(prediction)
    return columns


def _names(competition: Competition) -> tuple[str | None, list[str]]:
    sample = list(competition.submission_columns)
    if sample:
        return sample[0], sample[1:]
    return competition.id_column, [competition.target]


def write_submission(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write a CSV with LF line ends, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)


def check_submission(submission: Table, sample: Table, file: str, sample_file: str) -> str:
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
    id_name, *targets = list(sample)
    wanted = {str(value) for value in sample[id_name]}
    wrong = [value for value in submission[id_name] if str(value) not in wanted]
    if wrong:
        raise DataError(f"{file}: id {wrong[0]!r} is not in {sample_file} ({len(wrong)} such ids)")
    for name in targets:
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
