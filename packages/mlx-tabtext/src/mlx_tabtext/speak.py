"""A column's cells as the words that stand in the text."""

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np

from mlx_tabtext.config import TextConfig
from mlx_tabtext.dates import parse_date, speak_date
from mlx_tabtext.numbers import parse_number, plain_number
from mlx_tabtext.quantiles import NumberScale
from mlx_tabtext.schema import Column
from mlx_tabtext.table import Cell
from mlx_tabtext.values import is_empty, one_line, parse_boolean, speak_number


def speak_column(
    cells: Sequence[Cell], column: Column, scale: NumberScale | None, config: TextConfig
) -> list[str | None]:
    """Return what is said for each cell; `None` where the column is left out of the row."""
    speak = _speaker(column, scale, config)
    absent = column.words.get("")
    if absent is None and config.missing != "omit":
        absent = config.missing
    cache: dict[tuple[type, Cell], str | None] = {}  # by type too: True == 1 == 1.0
    spoken = []
    for cell in cells:
        key = (type(cell), cell)
        if key not in cache:
            cache[key] = _speak_cell(cell, column, speak, absent)
        spoken.append(cache[key])
    return spoken


def spoken_rows(cells: Sequence[Cell], column: Column, config: TextConfig) -> np.ndarray:
    """Return where `speak_column` says something, boolean, without finding out what."""
    if config.missing != "omit" or "" in column.words:
        return np.ones(len(cells), dtype=bool)
    return np.array(
        [not is_empty(cell, column.kind) or _word(cell, column) is not None for cell in cells],
        dtype=bool,
    )


def _word(cell: Cell, column: Column) -> str | None:
    if not column.words or cell is None:
        return None
    return column.words.get(_plain(cell, digits=15))


def _speak_cell(
    cell: Cell, column: Column, speak: Callable[[Cell], str], absent: str | None
) -> str | None:
    word = _word(cell, column)
    if word is not None:
        return word
    return absent if is_empty(cell, column.kind) else speak(cell)


def _speaker(
    column: Column, scale: NumberScale | None, config: TextConfig
) -> Callable[[Cell], str]:
    if column.kind == "numeric":
        return lambda cell: _number(cell, column, scale, config)
    if column.kind == "boolean":
        return lambda cell: _boolean(cell, config)
    if column.kind == "date":
        return lambda cell: _date(cell, column, config)
    if column.kind == "categorical":
        return lambda cell: _category(cell, config.digits)
    if column.kind == "text" and config.max_text_words:
        return lambda cell: " ".join(_plain(cell, config.digits).split()[: config.max_text_words])
    return lambda cell: _plain(cell, config.digits)


def _number(cell: Cell, column: Column, scale: NumberScale | None, config: TextConfig) -> str:
    plain = plain_number(cell, column.number_format)
    if plain is None:
        return _plain(cell, config.digits)
    value = speak_number(int(plain) if isinstance(plain, bool) else plain, config.digits)
    if config.numbers == "value" or scale is None:
        return value
    place = scale.bin(float(plain)) if config.numbers == "value+bin" else scale.word(float(plain))
    if place is None:
        return value
    return place if config.numbers == "word" else f"{value} ({place})"


def _boolean(cell: Cell, config: TextConfig) -> str:
    truth = parse_boolean(cell)
    if truth is None:
        return _plain(cell, config.digits)
    return "yes" if truth else "no"


def _date(cell: Cell, column: Column, config: TextConfig) -> str:
    when = parse_date(cell, column.date_format)
    return _plain(cell, config.digits) if when is None else speak_date(when, column.date_format)


def _plain(cell: Cell, digits: int) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float) and parse_number(cell) is None:
        return str(cell)
    if isinstance(cell, int | float):
        return speak_number(cell, digits)
    if isinstance(cell, date):
        when = parse_date(cell, None)
        return speak_date(when) if when else str(cell)
    return one_line(str(cell))


def _category(cell: Cell, digits: int) -> str:
    """Say `body%20bags` as `body bags`: categories often are pieces of web addresses."""
    return one_line(_plain(cell, digits).replace("%20", " "))
