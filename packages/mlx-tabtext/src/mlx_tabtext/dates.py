"""Dates: find the format of a column, parse, format, and convert to numbers."""

import re
from collections.abc import Callable, Iterable
from datetime import date, datetime
from typing import Literal, TypeAlias

import numpy as np

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.numbers import parse_number
from mlx_tabtext.table import Cell, Table, column_cells, is_missing

DatePart: TypeAlias = Literal["year", "month", "weekday", "days"]

# strftime's %B and %A depend on the machine's locale.
MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

ISO = "iso"
YEAR_MONTH = "%Y-%m"
COMPACT = "%Y%m%d"

# Month first comes before day first: most ambiguous data sets are American.
FORMATS = (
    *(ISO, YEAR_MONTH, "%Y/%m/%d"),
    *("%m/%d/%Y", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"),
    *("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d-%m-%Y", "%m/%d/%y", "%d/%m/%y"),
    *("%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y"),
    *("%B %d, %Y", "%b %d, %Y", "%B %Y", "%b %Y"),
)
_MONTH_ONLY = (YEAR_MONTH, "%B %Y", "%b %Y")
_ISO_SHAPE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")


def find_date_format(cells: Iterable[str], *, allow_compact: bool = False) -> str | None:
    """Return the first of `FORMATS` that parses 95 % of the distinct texts, or `None`.

    `allow_compact` also tries `20120314`, which is otherwise a number.
    """
    distinct = set(cells)
    allowed_failures = len(distinct) // 20
    # Only the compact format looks like a number; this skips 20 attempts for numeric columns.
    numbers = sum(parse_number(cell) is not None for cell in distinct)
    if numbers > allowed_failures and not allow_compact:
        return None
    for date_format in (*FORMATS, COMPACT) if allow_compact else FORMATS:
        failures = 0
        for cell in distinct:
            failures += parse_date(cell, date_format) is None
            if failures > allowed_failures:
                break
        else:
            return date_format
    return None


def parse_date(cell: Cell, date_format: str | None) -> datetime | None:
    """Return the date in `cell`, or `None` if it has no date in this format."""
    if isinstance(cell, datetime):
        return cell.replace(tzinfo=None)
    if isinstance(cell, date):
        return datetime(cell.year, cell.month, cell.day)
    if not isinstance(cell, str | int) or isinstance(cell, bool) or date_format is None:
        return None
    text = str(cell).strip()
    if not any(character.isdigit() for character in text):
        return None
    try:
        if date_format == ISO:
            if not _ISO_SHAPE.fullmatch(text):
                return None
            return datetime.fromisoformat(text).replace(tzinfo=None)
        if date_format == COMPACT and len(text) != 8:
            return None
        return datetime.strptime(text, date_format)
    except ValueError:
        return None


def format_date(when: datetime, date_format: str | None = ISO) -> str:
    """Return `14 March 2012, Wednesday`, with `, 13:05` unless at midnight, without a time zone.

    In a column of months: `March 2012`.
    """
    month = f"{MONTHS[when.month - 1]} {when.year}"
    if date_format in _MONTH_ONLY:
        return month
    day = f"{when.day} {month}, {WEEKDAYS[when.weekday()]}"
    if when.second:
        return f"{day}, {when:%H:%M:%S}"
    if when.hour or when.minute:
        return f"{day}, {when:%H:%M}"
    return day


def date_values(
    table: Table, name: str, part: DatePart = "days", *, date_format: str | None = None
) -> np.ndarray:
    """Return one part of a date column as float64, NaN where a cell is not a date.

    `year`, `month` (1 to 12), `weekday` (Monday is 0), or `days` since 1 January 1970 (the time of
    day as a fraction). Pass `date_format=schema[name].date_format`; without it, the format is
    inferred from these cells and may differ from that of the training table.
    """
    cells = column_cells(table, name)
    if part not in _PARTS:
        raise ValueError(f"unknown part {part!r} of a date{did_you_mean(part, _PARTS)}")
    if date_format is None:
        texts = [str(cell) for cell in cells if not isinstance(cell, date) and not is_missing(cell)]
        date_format = find_date_format(texts, allow_compact=True) if texts else ISO
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        when = parse_date(cell, date_format)
        if when is not None:
            values[row] = _PARTS[part](when)
    return values


_PARTS: dict[str, Callable[[datetime], float]] = {
    "year": lambda when: when.year,
    "month": lambda when: when.month,
    "weekday": lambda when: when.weekday(),
    "days": lambda when: (when - datetime(1970, 1, 1)).total_seconds() / 86400,
}
