"""Cells to strings: numbers, truth values, dates, coded values and text."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import date

import numpy as np

from mlx_tabtext.dates import format_date, parse_date
from mlx_tabtext.numbers import is_empty, parse_boolean, parse_number, plain_number
from mlx_tabtext.schema import Column
from mlx_tabtext.serialize import TextConfig
from mlx_tabtext.statistics import NumberStatistics
from mlx_tabtext.table import Cell

_INTEGER = re.compile(r"[+-]?[0-9]+")


def format_column(
    cells: Sequence[Cell], column: Column, numbers: NumberStatistics | None, config: TextConfig
) -> list[str | None]:
    """Return the string of each cell; `None` where the row omits the column."""
    format_value = _formatter(column, numbers, config)
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
    """Return where `format_column` gives a string, boolean (rows,), without formatting."""
    if config.missing != "omit" or "" in column.value_labels:
        return np.ones(len(cells), dtype=bool)
    return np.array(
        [not is_empty(cell, column.kind) or _value_label(cell, column) is not None
         for cell in cells],
        dtype=bool,
    )  # fmt: skip


def format_number(cell: int | float | str, digits: int) -> str:
    """Return a number in plain digits, with about `digits` significant ones.

    The part before the decimal point is never rounded. Only magnitudes from 1e15 and below 1e-9
    have an exponent. `cell` must be a finite number, or text of one.
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


def _formatter(
    column: Column, numbers: NumberStatistics | None, config: TextConfig
) -> Callable[[Cell], str]:
    digits, limit = config.digits, config.max_text_words

    def format_boolean(cell: Cell) -> str:
        truth = parse_boolean(cell)
        return _plain(cell if truth is None else truth, digits)

    def format_date_cell(cell: Cell) -> str:
        when = parse_date(cell, column.date_format)
        return _plain(cell, digits) if when is None else format_date(when, column.date_format)

    match column.kind:
        case "numeric":
            return lambda cell: _format_numeric(cell, column, numbers, config)
        case "boolean":
            return format_boolean
        case "date":
            return format_date_cell
        case "categorical":  # often a piece of a web address: "body%20bags"
            return lambda cell: " ".join(_plain(cell, digits).replace("%20", " ").split())
        case "text" if limit:
            return lambda cell: " ".join(_plain(cell, digits).split()[:limit])
    return lambda cell: _plain(cell, digits)


def _format_numeric(
    cell: Cell, column: Column, numbers: NumberStatistics | None, config: TextConfig
) -> str:
    plain = plain_number(cell, column.number_format)
    if plain is None:
        return _plain(cell, config.digits)
    text = format_number(int(plain) if isinstance(plain, bool) else plain, config.digits)
    if config.numbers == "value" or numbers is None:
        return text
    level = (
        numbers.bin(float(plain)) if config.numbers == "value+bin" else numbers.word(float(plain))
    )
    if level is None:
        return text
    return level if config.numbers == "word" else f"{text} ({level})"


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
