"""Read the tables of a competition, select their rows, and write CSV."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.competition import UNSCORED, list_names, normalize_label
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


def drop_unlabelled(
    table: Table, targets: str | Sequence[str], file: str, task: str = ""
) -> tuple[Table, np.ndarray, list[str]]:
    """Drop the rows without a target; return the table, the positions kept, and notes.

    Of several targets a row must have all. In a multilabel task -1 means unknown, as in the answers
    that Kaggle publishes with rows that were not scored. Raises `DataError` when no row is left.
    """
    names = [targets] if isinstance(targets, str) else list(targets)
    missing = _first_columns(table, names, is_missing)
    unscored = {}
    if task == "multilabel":
        unscored = _first_columns(table, names, lambda cell: normalize_label(str(cell)) == UNSCORED)
        unscored = {row: name for row, name in unscored.items() if row not in missing}
    count = len(table[names[0]])
    rows = np.setdiff1d(np.arange(count), [*missing, *unscored])
    if not len(rows):
        what = f"target {names[0]!r}"
        if len(names) > 1:
            what = f"one of the {len(names)} targets ({list_names(names, 5)})"
        unknown = "missing or -1" if unscored else "missing"
        raise DataError(f"{file}: {what} is {unknown} in all {count} rows")
    without = "without a target" if len(names) == 1 else f"without one of the {len(names)} targets"
    notes = [
        f"{file}: dropped {len(found)} of {count} rows {what} (first: row {min(found) + 2}"
        + (f", {found[min(found)]})" if len(names) > 1 else ")")
        for found, what in ((missing, without), (unscored, "with a label of -1, so not scored"))
        if found
    ]
    return (take(table, rows) if notes else table), rows, notes


def _first_columns(
    table: Table, names: Sequence[str], found: Callable[[Any], bool]
) -> dict[int, str]:
    """Return the rows with such a cell, and the first of the columns that has it."""
    rows: dict[int, str] = {}
    for name in names:
        for row, cell in enumerate(table[name]):
            if found(cell):
                rows.setdefault(row, name)
    return rows


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
