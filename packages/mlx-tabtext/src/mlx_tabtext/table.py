"""Tables: a dict of columns, each a list of plain Python cells."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TypeAlias

import numpy as np

from mlx_tabtext._suggest import did_you_mean

Cell: TypeAlias = str | int | float | bool | date | None
"""One cell. `datetime` is a subclass of `date`; `None` is an empty cell."""

Table: TypeAlias = dict[str, list]
"""Column names to cells; all columns have the same length."""

MISSING_VALUES = ("", "na", "n/a", "#n/a", "nan", "<na>", "nat", "null", "?")
"""Texts that mean an empty cell, in any case.

`None` is not one of them, because data sets use it as a category ("no masonry veneer"). For a
column where `NA` is a category: `infer_schema(value_labels={"Alley": {"NA": "no alley"}})`.
"""


class TableError(ValueError):
    """An invalid table or file. The message is one line."""


def as_table(data: object) -> Table:
    """Return a table from a data frame (pandas, polars, pyarrow), dict rows or a dict of columns.

    Cells become plain Python values; NaN, NaT and null become `None`. A key missing from a dict row
    is a `None` cell. narwhals reads the frames, so none of these libraries is required.
    """
    if isinstance(data, Mapping):
        columns = _columns_of_mapping(data)
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes):
        columns = _columns_of_rows(data)
    else:
        columns = _columns_of_frame(data)
    table = {
        name: [plain_cell(cell, name, row) for row, cell in enumerate(cells)]
        for name, cells in columns.items()
    }
    check_table(table)
    return table


def is_missing(cell: Cell) -> bool:
    """Return whether a cell is empty: `None`, NaN, infinite, or one of `MISSING_VALUES`."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().casefold() in MISSING_VALUES
    return isinstance(cell, float) and not math.isfinite(cell)


def check_table(table: Table) -> int:
    """Return the number of rows; `TableError` if this is not a table."""
    if not isinstance(table, dict):
        raise TableError(
            f"a table is a dict of column name to list of cells, not {type(table).__name__}; "
            "call as_table() on it first"
        )
    lengths = {name: len(cells) for name, cells in table.items()}
    if not lengths:
        raise TableError("a table needs at least one column, this one has none")
    (first, rows), *others = lengths.items()
    for name, length in others:
        if length != rows:
            raise TableError(
                f"columns differ in length: {first!r} has {rows} cells, {name!r} has {length}"
            )
    return rows


def column_cells(table: Table, name: str) -> list[Cell]:
    """Return one column; `TableError` with the nearest name if it is not in the table."""
    if name not in table:
        raise TableError(f"no column {name!r} in the table{did_you_mean(name, table)}")
    return table[name]


def _columns_of_mapping(data: Mapping) -> dict[str, list]:
    columns = {}
    for name, cells in data.items():
        if isinstance(cells, str | bytes) or not isinstance(cells, Iterable):
            raise TableError(f"column {name!r} is {type(cells).__name__}, not a list of cells")
        if str(name) in columns:
            raise TableError(f"column name {str(name)!r} occurs twice; rename one")
        columns[str(name)] = list(cells)
    return columns


def _columns_of_rows(rows: Sequence[object]) -> dict[str, list]:
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TableError(
                f"row {number} is {type(row).__name__}; a list of rows needs one dict per row"
            )
        names.update(dict.fromkeys(str(name) for name in row))
    by_name = [{str(name): cell for name, cell in row.items()} for row in rows]  # type: ignore[attr-defined]
    return {name: [row.get(name) for row in by_name] for name in names}


def _columns_of_frame(data: object) -> dict[str, list]:
    import narwhals as nw
    from narwhals.exceptions import NarwhalsError

    try:
        frame = nw.from_native(data)  # type: ignore[call-overload]
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect()
        columns = list(zip(frame.columns, frame.iter_columns(), strict=True))
    except (TypeError, NarwhalsError) as error:
        reason = " ".join(str(error).split())[:60]
        raise TableError(
            f"cannot read a table from {type(data).__name__}; give a pandas, polars or pyarrow "
            f"table, a list of dict rows, or a dict of columns ({reason})"
        ) from None
    return {str(name): series.to_list() for name, series in columns}


def plain_cell(cell: object, name: str, row: int) -> Cell:
    """Return `cell` as one of the plain types of a table."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, Decimal):
        cell = float(cell)
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):  # pandas' own nulls
        return None
    if isinstance(cell, float) and math.isnan(cell):
        return None
    if isinstance(cell, str | bool | int | float | date):
        return cell
    if isinstance(cell, time | timedelta):
        return str(cell)
    raise TableError(
        f"column {name!r}, row {row}: a cell is text, a number, a boolean, a date or None, "
        f"not {type(cell).__name__}"
    )
