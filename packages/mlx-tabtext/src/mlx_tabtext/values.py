"""Single cells: what is missing, what is a number, and how a value is spoken."""

import math
import re

import numpy as np

from mlx_tabtext.numbers import is_infinite, parse_number
from mlx_tabtext.table import Cell, Table, column_cells

MISSING_WORDS = ("", "na", "n/a", "#n/a", "nan", "<na>", "nat", "null", "?")
"""Texts that mean an empty cell, whatever their case.

`None` is not among them, because data sets use it as a category ("no masonry veneer"). A column
where `NA` is a category says so through `infer_schema(words={"Alley": {"NA": "no alley"}})`.
"""

YES_WORDS = ("yes", "true", "y", "t")
NO_WORDS = ("no", "false", "n", "f")

_INTEGER = re.compile(r"[+-]?[0-9]+")


def is_missing(cell: Cell) -> bool:
    """Return whether a cell is empty: `None`, NaN, infinite, or one of `MISSING_WORDS`."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().casefold() in MISSING_WORDS
    return isinstance(cell, float) and not math.isfinite(cell)


def is_empty(cell: Cell, kind: str) -> bool:
    """Return whether a column of this kind holds nothing here: an infinite number is nothing."""
    return is_missing(cell) or (kind == "numeric" and is_infinite(cell))


def numeric_values(table: Table, name: str, *, number_format: str | None = None) -> np.ndarray:
    """Return a column as float64, NaN where a cell is missing, infinite or no number.

    Pass `number_format=schema[name].number_format`: without it numbers are plain (see
    `parse_number`). Yes and no, in the words of `parse_boolean`, are 1 and 0.
    """
    values = np.full(len(column_cells(table, name)), math.nan)
    for row, cell in enumerate(table[name]):
        number = parse_number(cell, number_format)
        if number is None:
            number = parse_boolean(cell)
        if number is not None:
            values[row] = number
    return values


def speak_number(cell: int | float | str, digits: int) -> str:
    """Return a number as plain digits, with about `digits` significant ones.

    Whole numbers and the part before the decimal point are never rounded away. Only magnitudes
    from 1e15 and below 1e-9 keep an exponent. `cell` must be a finite number, or text of one.
    """
    if isinstance(cell, int) or (isinstance(cell, str) and _INTEGER.fullmatch(cell.strip())):
        return str(int(cell))
    number = float(cell)
    if number == 0:
        return "0"
    if not 1e-9 <= abs(number) < 1e15:
        return f"{number:.{digits}g}"
    before_point = math.floor(math.log10(abs(number))) + 1
    spoken = f"{number:.{max(0, digits - before_point)}f}"
    return spoken.rstrip("0").rstrip(".") if "." in spoken else spoken


def parse_boolean(cell: Cell) -> bool | None:
    """Return the truth value of a boolean, of 0 and 1, and of yes/no, true/false, y/n, t/f."""
    if isinstance(cell, str):
        word = cell.strip().casefold()
        if word in YES_WORDS:
            return True
        if word in NO_WORDS:
            return False
    number = parse_number(cell)
    return bool(number) if number in (0.0, 1.0) else None


def one_line(text: str) -> str:
    """Return the text with every run of white space, line breaks too, as one space."""
    return " ".join(text.split())
