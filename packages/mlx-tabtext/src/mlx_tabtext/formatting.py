"""Format cells as strings: numbers, booleans, dates, coded values, text; find invalid cells."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import TypeAlias

import numpy as np

from mlx_tabtext.dates import format_date, parse_date
from mlx_tabtext.numbers import is_empty, parse_boolean, parse_number, plain_number
from mlx_tabtext.schema import Column, Schema
from mlx_tabtext.serialize import TextConfig
from mlx_tabtext.table import Cell, Table, is_missing

_INTEGER = re.compile(r"[+-]?[0-9]+")


Level: TypeAlias = Callable[[float], str | None]
"""Function from a number to its quantile level (`low`, `q3 of 10`) or `None`."""


def format_column(
    cells: Sequence[Cell], column: Column, level: Level | None, config: TextConfig
) -> list[str | None]:
    """Return the string of each cell; `None` if the row omits the column."""
    format_value = _formatter(column, level, config)
    missing = column.value_labels.get("")
    if missing is None and config.missing != "omit":
        missing = config.missing
    cache: dict[tuple[type, Cell], str | None] = {}  # by type too: True == 1 == 1.0
    strings = []
    for cell in cells:
        key = (type(cell), cell)
        if key not in cache:
            cache[key] = _value_label(cell, column)
            if cache[key] is None:
                cache[key] = missing if is_empty(cell, column.kind) else format_value(cell)
        strings.append(cache[key])
    return strings


def has_value(cells: Sequence[Cell], column: Column, config: TextConfig) -> np.ndarray:
    """Return a boolean mask (rows,) of `format_column(...) is not None`, without formatting."""
    if config.missing != "omit" or "" in column.value_labels:
        return np.ones(len(cells), dtype=bool)
    kind = column.kind
    values = [not is_empty(cell, kind) or _value_label(cell, column) is not None for cell in cells]
    return np.array(values, dtype=bool)


def format_number(cell: int | float | str, digits: int) -> str:
    """Return a number in plain digits, with about `digits` significant digits.

    The part before the decimal point is never rounded. Only magnitudes from 1e15 and below 1e-9
    have an exponent. `cell` must be a finite number, as a number or as text.
    """
    if isinstance(cell, int) or (isinstance(cell, str) and _INTEGER.fullmatch(cell.strip())):
        return str(int(cell))
    number = float(cell)
    if number == 0:
        return "0"
    if not 1e-9 <= abs(number) < 1e15:
        return f"{number:.{digits}g}"
    before_point = math.floor(math.log10(abs(number))) + 1
    text = f"{number:.{max(0, digits - before_point)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _value_label(cell: Cell, column: Column) -> str | None:
    if not column.value_labels or cell is None:
        return None
    return column.value_labels.get(_plain(cell, digits=15))


def _formatter(column: Column, level: Level | None, config: TextConfig) -> Callable[[Cell], str]:
    digits, limit = config.digits, config.max_text_words

    def format_boolean(cell: Cell) -> str:
        truth = parse_boolean(cell)
        return _plain(cell if truth is None else truth, digits)

    def format_date_cell(cell: Cell) -> str:
        when = parse_date(cell, column.date_format)
        return _plain(cell, digits) if when is None else format_date(when, column.date_format)

    match column.kind:
        case "numeric":
            return lambda cell: _format_numeric(cell, column, level, config)
        case "boolean":
            return format_boolean
        case "date":
            return format_date_cell
        case "categorical":  # often a piece of a web address: "body%20bags"
            return lambda cell: " ".join(_plain(cell, digits).replace("%20", " ").split())
        case "text" if limit:
            return lambda cell: " ".join(_plain(cell, digits).split()[:limit])
    return lambda cell: _plain(cell, digits)


def _format_numeric(cell: Cell, column: Column, level: Level | None, config: TextConfig) -> str:
    plain = plain_number(cell, column.number_format)
    if plain is None:
        return _plain(cell, config.digits)
    text = format_number(int(plain) if isinstance(plain, bool) else plain, config.digits)
    suffix = level(float(plain)) if level else None
    if suffix is None:
        return text
    return suffix if config.numbers == "word" else f"{text} ({suffix})"


def _plain(cell: Cell, digits: int) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float) and parse_number(cell) is None:
        return str(cell)
    if isinstance(cell, int | float):
        return format_number(cell, digits)
    if isinstance(cell, date):
        when = parse_date(cell, None)
        return format_date(when) if when else str(cell)
    return " ".join(str(cell).split())


def find_invalid_cells(table: Table, schema: Schema) -> dict[str, list[int]]:
    """Return the rows (from 0) of filled cells that are not numbers or dates, by input column.

    `numeric_values` and `date_values` return NaN for them; texts contain them unchanged. Infinite
    numbers count too, but texts omit them. Missing columns are skipped.
    """
    found = {}
    for column in schema.features:
        if column.kind in ("numeric", "boolean", "date") and column.name in table:
            rows = [
                row
                for row, cell in enumerate(table[column.name])
                if not is_missing(cell) and not _is_valid(cell, column)
            ]
            if rows:
                found[column.name] = rows
    return found


def _is_valid(cell: Cell, column: Column) -> bool:
    if isinstance(cell, str) and cell.strip() in column.value_labels:
        return True
    if column.kind == "date":
        return parse_date(cell, column.date_format) is not None
    return parse_number(cell, column.number_format) is not None or parse_boolean(cell) is not None
