"""Parse numbers in common formats: `1234.5`, `$1,234.50`, `45%`, `1.234,5`, `1 234`, `(12)`.

The number format of a column is a text such as `$1,234.5%`: an optional currency, one of `MARKS`,
an optional `%`. `None` is the plain format of `float()`. Every other format also reads `(12)` as
-12 and the sign U+2212. `45%` is 45.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from mlx_tabtext.table import Cell, Table, column_cells, is_missing

PLAIN = "1234.5"
MARKS = {
    PLAIN: ("", "."),
    "1,234.5": (",", "."),
    "1.234,5": (".", ","),
    "1 234.5": (" ", "."),
    "1 234,5": (" ", ","),
    "1'234.5": ("'", "."),
}
"""Thousands and decimal mark of each format, the likeliest first."""

TRUE_VALUES = ("yes", "true", "y", "t")
FALSE_VALUES = ("no", "false", "n", "f")

NUMBER_SHARE = 0.95  # of the filled cells must be numbers
_LONGEST = 60  # characters; longer cells are not searched for marks
# No underscores (which float() accepts), no hexadecimal.
_PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INFINITE = re.compile(r"[+-]?(inf(inity)?|∞)", re.IGNORECASE)
_BLANK = "[ \u00a0\u2009\u202f]"
_CURRENCY = re.compile(
    "US[$]|R[$]|[$\u00a2-\u00a5\u20a0-\u20cf]|AUD|CAD|CHF|CNY|EUR|GBP|INR|JPY|SEK|USD|kr|zł"
)
_NUMBER_LIKE = re.compile(rf"(?:[-+−0-9.,'’%()]|{_BLANK}|[eE][+-]?[0-9]|{_CURRENCY.pattern})+")
_POINT_GROUPS = re.compile(r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+")


def plain_number(cell: Cell, number_format: str | None = None) -> str | int | float | None:
    """Return a number as a Python number or as text that `float()` accepts, or `None`."""
    if not isinstance(cell, str):
        return cell if isinstance(cell, bool | int | float) else None
    text = cell.strip()
    if number_format is None or "." not in text:
        if _PLAIN.fullmatch(text):
            return text
        if number_format is None:
            return None
    if len(text) > _LONGEST or not (found := _pattern(number_format).fullmatch(text)):
        return None
    opened, first, second, digits, closed = found.groups()
    if bool(opened) != bool(closed) or bool(opened) + bool(first) + bool(second) > 1:
        return None
    thousands, decimal = MARKS[_marks_of(number_format)]
    digits = re.sub(_thousands(thousands), "", digits) if thousands else digits
    negative = opened or "-" in (first, second) or "−" in (first, second)
    return f"{'-' if negative else ''}{digits.replace(decimal, '.')}"


def parse_number(cell: Cell, number_format: str | None = None) -> float | None:
    """Return the finite number in a cell, or `None`. Booleans are 0 and 1.

    The plain format reads `12`, `-1.5`, `.5` and `1e-3`. `find_number_format` decides from the
    whole column whether `1,234` is 1234 or 1.234.
    """
    number = _to_float(plain_number(cell, number_format))
    return number if number is not None and math.isfinite(number) else None


def parse_boolean(cell: Cell) -> bool | None:
    """Return a boolean, 0 or 1, yes/no, true/false, y/n or t/f as a bool, else `None`."""
    if isinstance(cell, str):
        text = cell.strip().casefold()
        if text in TRUE_VALUES:
            return True
        if text in FALSE_VALUES:
            return False
    number = parse_number(cell)
    return bool(number) if number in (0.0, 1.0) else None


def numeric_values(table: Table, name: str, *, number_format: str | None = None) -> np.ndarray:
    """Return a column as float64, NaN if a cell is missing, infinite or not a number.

    Pass `number_format=schema[name].number_format`; the default is the plain format. Booleans are 1
    and 0.
    """
    values = np.full(len(column_cells(table, name)), math.nan)
    for row, cell in enumerate(table[name]):
        number = parse_number(cell, number_format)
        if number is None:
            number = parse_boolean(cell)
        if number is not None:
            values[row] = number
    return values


def is_infinite(cell: Cell) -> bool:
    """Return whether a cell is infinite: `inf`, `-Infinity`, `∞`, or a number beyond 1.8e308."""
    if isinstance(cell, str) and _INFINITE.fullmatch(cell.strip()):
        return True
    number = _to_float(plain_number(cell))
    return number is not None and math.isinf(number)


def is_empty(cell: Cell, kind: str) -> bool:
    """Return whether a cell is missing, or an infinite number in a numeric column."""
    return is_missing(cell) or (kind == "numeric" and is_infinite(cell))


def find_number_format(cells: Iterable[Cell], *, decimal: str | None = None) -> str | None:
    """Return the format that parses the most filled cells of a column; `None` is the plain one.

    If every `1,234` of the column could be thousands or decimals, `decimal` (`","` or `"."`)
    decides, or else the order of `MARKS`.
    """
    return choose_format(number_formats(cells), decimal)


def number_formats(cells: Iterable[Cell], *, share: float = NUMBER_SHARE) -> tuple[str | None, ...]:
    """Return all formats that parse the most filled cells of a column, likeliest first.

    The result is empty if less than `share` of the cells are numbers, and for digits only, several
    currencies, codes (groups of digits with one total length, such as phone numbers), and if all
    cells are in parentheses.
    """
    counts = Counter(each.strip() for each in cells if isinstance(each, str))
    counts = Counter({text: n for text, n in counts.items() if not _INFINITE.fullmatch(text)})
    like = [text for text in counts if len(text) <= _LONGEST and _NUMBER_LIKE.fullmatch(text)]
    if not like or sum(counts[text] for text in like) < share * counts.total():
        return ()
    plain = [text for text in like if _PLAIN.fullmatch(text)]
    if len(plain) == len(like):
        return _formats_of_plain(plain)
    currencies = {found for text in like for found in _CURRENCY.findall(text)}
    if len(currencies) > 1 or all(text.startswith("(") for text in like):
        return ()
    before, after = "".join(currencies), "%" if any("%" in text for text in like) else ""
    read = {
        (name := f"{before}{marks}{after}"): [
            text for text in like if plain_number(text, name) is not None
        ]
        for marks in MARKS
    }
    cells_read = {name: sum(counts[text] for text in texts) for name, texts in read.items()}
    best = max(cells_read.values())
    if best < share * counts.total():
        return ()
    if best == sum(counts[text] for text in plain):
        return _formats_of_plain(plain)
    names = tuple(name for name in read if cells_read[name] == best)
    return () if _are_codes(read[names[0]], names[0]) else names


def choose_format(formats: Sequence[str | None], decimal: str | None) -> str | None:
    """Return the first format with this decimal mark, or else the first; `None` is plain."""
    fitting = [name for name in formats if decimal_mark(name) == decimal]
    return next(iter([*fitting, *formats]), None)


def decimal_mark(number_format: str | None) -> str:
    """Return `"."` or `","`."""
    return MARKS[_marks_of(number_format or PLAIN)][1]


def _formats_of_plain(texts: list[str]) -> tuple[str | None, ...]:
    pointed = [text for text in texts if "." in text]
    if not pointed:
        return ()
    return (None, "1.234,5") if all(map(_POINT_GROUPS.fullmatch, pointed)) else (None,)


def _are_codes(texts: list[str], number_format: str) -> bool:
    digits = {len(re.sub("[^0-9]", "", text)) for text in texts}
    grouped = MARKS[_marks_of(number_format)][0] in (" ", ".") and len(texts) > 1
    only_groups = re.compile(rf"[0-9]+(?:{_BLANK}|\.)[0-9]{{3}}(?:(?:{_BLANK}|\.)[0-9]{{3}})+")
    return grouped and len(digits) == 1 and all(map(only_groups.fullmatch, texts))


def _to_float(number: str | int | float | None) -> float | None:
    if number is None:
        return None
    try:
        return float(number)
    except OverflowError:  # an integer beyond 1e308
        return math.inf


def _marks_of(number_format: str) -> str:
    return _CURRENCY.sub("", number_format).removesuffix("%")


def _thousands(mark: str) -> str:
    return {" ": _BLANK, "'": "['’]"}.get(mark, re.escape(mark))


@lru_cache
def _pattern(number_format: str) -> re.Pattern[str]:
    """Groups: opening parenthesis, sign, sign after the currency, digits, closing parenthesis."""
    thousands, decimal = MARKS[_marks_of(number_format)]
    whole = "[0-9]+"
    if thousands:
        mark = _thousands(thousands)
        whole = rf"(?:[1-9][0-9]{{0,2}}(?:{mark}[0-9]{{3}})+|{whole})"
    if thousands == ",":  # India: 12,34,567
        whole = rf"(?:{whole}|[1-9][0-9]?(?:,[0-9]{{2}})+,[0-9]{{3}})"
    point = re.escape(decimal)
    digits = rf"(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    currency = _CURRENCY.match(number_format)
    sign, blank = "([-+−]?)", rf"{_BLANK}*"
    unit = rf"(?:{re.escape(currency[0])})?{blank}" if currency else ""
    percent = f"{blank}%?" if number_format.endswith("%") else ""
    return re.compile(
        rf"{unit}([(]?){blank}{sign}{blank}{unit}{sign}({digits}){blank}{unit}{percent}([)]?){percent}"
    )
