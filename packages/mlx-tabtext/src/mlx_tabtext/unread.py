"""Cells of another table that the rules found on the training table cannot read."""

from mlx_tabtext.dates import parse_date
from mlx_tabtext.numbers import parse_number
from mlx_tabtext.schema import Column, Schema
from mlx_tabtext.table import Cell, Table
from mlx_tabtext.values import is_missing, parse_boolean


def unread_cells(table: Table, schema: Schema) -> dict[str, list[int]]:
    """Return the rows (from 0) of the filled cells that hold no number or date, by input column.

    Their numbers are NaN as if the cells were missing; texts say them as they are written. An
    infinite number counts too, and is left out of texts. Columns without such cells, and columns
    that the table lacks, are left out.
    """
    found = {}
    for column in schema.features:
        if column.kind in ("numeric", "boolean", "date") and column.name in table:
            rows = [
                row
                for row, cell in enumerate(table[column.name])
                if not is_missing(cell) and not _is_read(cell, column)
            ]
            if rows:
                found[column.name] = rows
    return found


def _is_read(cell: Cell, column: Column) -> bool:
    if isinstance(cell, str) and cell.strip() in column.words:
        return True
    if column.kind == "date":
        return parse_date(cell, column.date_format) is not None
    return parse_number(cell, column.number_format) is not None or parse_boolean(cell) is not None
