"""The leak guard: a score means nothing when the answers were in the training rows."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mlx_kaggle.competition import Competition, row_count
from mlx_kaggle.errors import DataError, RunError
from mlx_tabtext import Table, find_invalid_cells

# Shared rows beyond this share, and beyond twice what train repeats of itself, are no accident.
ACCIDENT = 0.05


def row_hashes(table: Table, columns: Iterable[str]) -> np.ndarray:
    """A 64-bit fingerprint of each row over `columns`, (N,) uint64; equal rows, equal prints."""
    chosen = [table[name] for name in columns if name in table]
    prints = [
        hashlib.blake2b("\x1f".join(map(str, row)).encode("utf-8", "replace"), digest_size=8)
        for row in zip(*chosen, strict=True)
    ]
    return np.array([int.from_bytes(each.digest(), "little") for each in prints], np.uint64)


def feature_names(competition: Competition) -> list[str]:
    """The columns a row is recognized by."""
    return [column.name for column in competition.schema.features]


def check_overlap(
    train: np.ndarray, other: np.ndarray, file: str, train_file: str, allow: bool
) -> str | None:
    """Compare fingerprints; return a note for a few shared rows, refuse for many.

    Raises `DataError` when more rows of `file` stand in the training file than chance explains:
    5 %, or twice the share of rows that the training file repeats of itself.
    """
    if not len(other):
        return None
    shared = np.isin(other, train)
    share = float(shared.mean())
    repeated = 1 - len(np.unique(train)) / max(len(train), 1)
    what = f"{int(shared.sum())} of {len(other)} rows of {file} stand in {train_file} too"
    if share <= max(ACCIDENT, 2 * repeated):
        return f"{what} (train repeats {repeated:.1%} of its own rows)" if shared.any() else None
    if allow:
        return f"LEAK allowed by --allow-leak: {what}; scores on it mean nothing"
    row = int(shared.argmax()) + 2
    raise DataError(
        f"leak: {what} (first: row {row}), so a score would only show memory; give other rows, or "
        f"add --allow-leak"
    )


def check_columns(competition: Competition, table: Table, file: str) -> list[str]:
    """Refuse a table without a column the model needs; note columns it does not know."""
    missing = [name for name in feature_names(competition) if name not in table]
    if missing:
        raise DataError(
            f"{file}: column {missing[0]!r} is missing"
            + (f" (and {len(missing) - 1} more: {', '.join(missing[1:6])})" if missing[1:] else "")
            + f"; the training file has it. Columns here: {', '.join(list(table)[:12])}"
        )
    if not row_count(table):
        raise DataError(f"{file}: has a header but no rows")
    known = {column.name for column in competition.schema.columns}
    extra = [name for name in table if name not in known]
    notes = [f"{file}: column {name!r} was not in the training file; ignored" for name in extra[:5]]
    if extra[5:]:
        notes.append(
            f"{file}: {len(extra) - 5} more columns were not in the training file; ignored"
        )
    return notes + _unread(competition, table, file)


def _unread(competition: Competition, table: Table, file: str) -> list[str]:
    notes = []
    for name, rows in find_invalid_cells(table, competition.schema).items():
        column = competition.schema[name]
        kind = "finite number" if column.kind == "numeric" else column.kind
        written = column.number_format or column.date_format
        how = f" written as {written}" if written else ""
        cells = "1 cell is" if len(rows) == 1 else f"{len(rows)} cells are"
        first = str(table[name][rows[0]])
        shown = repr(first if len(first) <= 40 else f"{first[:40]}...")
        notes.append(
            f"{file}: column {name!r}: {cells} no {kind}{how} (first: row {rows[0] + 2}, "
            f"{shown}) and missing as a number"
        )
    return notes


def check_ids(ids: Sequence, file: str, column: str) -> None:
    """Refuse repeated ids."""
    seen: dict[str, int] = {}
    for row, value in enumerate(ids):
        if str(value) in seen:
            first = seen[str(value)]
            raise DataError(
                f"{file}, row {row + 2}: id {value!r} of column {column!r} stands in row "
                f"{first + 2} already"
            )
        seen[str(value)] = row


def check_finite(prediction: np.ndarray, member: Path, file: str) -> None:
    """Refuse predictions, (N,) or (N, classes), of a model that are NaN or infinite."""
    rows = np.flatnonzero(~np.isfinite(prediction.reshape(len(prediction), -1)).all(1))
    if len(rows):
        raise RunError(
            f"{member}: its prediction of row {rows[0] + 2} of {file} is not a finite number"
            + (f" ({len(rows)} such rows)" if len(rows) > 1 else "")
            + "; nothing was written. Train it again, at a lower learning rate if it diverged"
        )
