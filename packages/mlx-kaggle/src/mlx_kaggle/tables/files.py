"""Read the tables of a competition, select their rows, and write CSV."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.config import DataSettings
from mlx_tabtext import TABLE_ENDINGS, Table, is_missing, read_table
from mlx_trainer import write_atomic

SUBMISSION_NAMES = ("sample_submission", "gender_submission", "sampleSubmission")


@dataclass(frozen=True)
class Tables:
    """The tables of one competition."""

    train: Table
    val: Table | None
    test: Table | None
    sample_submission: Table | None
    notes: tuple[str, ...]


def read_tables(data: DataSettings) -> Tables:
    """Read the given files, and a test table and sample submission found next to `train`."""
    found = find_companion_files(data)
    given = (data.test, data.sample_submission)
    notes = tuple(f"found {path}" for path in found.values() if path and path not in given)
    train, val, test, sample = (
        read_table(path, separator=data.separator) if path else None
        for path in (data.train, data.val, found["test"], found["sample_submission"])
    )
    if not train or not row_count(train):
        raise DataError(f"{data.train}: has a header but no rows")
    return Tables(train, val, test, sample, notes)


def find_companion_files(data: DataSettings) -> dict[str, str | None]:
    """Return the paths of test table and sample submission: as given, else next to `train`.

    Files with the same ending as the training file take precedence.
    """
    return {
        "test": data.test or _find_companion(("test",), data),
        "sample_submission": data.sample_submission or _find_companion(SUBMISSION_NAMES, data),
    }


def _find_companion(names: Sequence[str], data: DataSettings) -> str | None:
    train = Path(data.train)
    used = {Path(path).resolve() for path in (data.train, data.val) if path}
    endings = sorted(
        TABLE_ENDINGS, key=lambda ending: -len(ending) * train.name.lower().endswith(ending)
    )
    for name, ending in product(names, endings):
        path = train.parent / (name + ending)
        if path.is_file() and path.resolve() not in used:
            return str(path)
    return None


def row_count(table: Table) -> int:
    """Return the number of rows."""
    return len(next(iter(table.values()), []))


def take(table: Table, rows: Sequence[int] | np.ndarray) -> Table:
    """Select rows by position."""
    return {name: [cells[row] for row in rows] for name, cells in table.items()}


def drop_unlabelled(table: Table, target: str, file: str) -> tuple[Table, np.ndarray, list[str]]:
    """Drop the rows without a target; return the table, the positions kept, and notes.

    Raises `DataError` when every target is missing.
    """
    missing = [row for row, cell in enumerate(table[target]) if is_missing(cell)]
    rows = np.setdiff1d(np.arange(len(table[target])), missing)
    if not missing:
        return table, rows, []
    if not len(rows):
        raise DataError(f"{file}: target {target!r} is missing in all {len(missing)} rows")
    note = (
        f"{file}: dropped {len(missing)} of {len(table[target])} rows without a target (first: "
        f"row {missing[0] + 2})"
    )
    return take(table, rows), rows, [note]


def index_ids(
    columns: Sequence[Sequence[Any]], names: Sequence[str], file: str
) -> dict[tuple[str, ...], int]:
    """Return the row of each id, a tuple over `names`; refuse repeated ids."""
    rows: dict[tuple[str, ...], int] = {}
    for row, cells in enumerate(zip(*columns, strict=True)):
        key = tuple(map(str, cells))
        if key in rows:
            raise DataError(
                f"{file}, row {row + 2}: id {', '.join(key)!r} of column {', '.join(names)!r} "
                f"is already in row {rows[key] + 2}"
            )
        rows[key] = row
    return rows


def write_csv(path: Path, columns: Table) -> None:
    """Write a table with LF line ends, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)
