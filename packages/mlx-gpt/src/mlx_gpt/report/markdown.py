"""Lists, tables and numbers of the report in Markdown."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mlx_gpt.training.display import duration

ABSENT = "-"


def bullets(values: Mapping[str, Any], absent: str = "not measured") -> list[str]:
    """Return a list with a line for each value; `absent` stands for None."""
    lines = [""]
    for name, value in values.items():
        text = absent if value is None else format_number(value)
        lines.append(f"- {name}: {one_line(text)}")
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table."""
    cells = [[_cell(each) for each in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{'---|' * len(header)}", *lines[1:]]


def _cell(value: Any) -> str:
    return one_line(format_number(value)).replace("|", "\\|")


def one_line(text: str) -> str:
    """Return text on one line."""
    return " ".join(str(text).split())


def format_number(value: Any, digits: int = 4) -> str:
    """Return a number as text; None is a dash, and text stays."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) >= 10**-digits or not value else f"{value:.2g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def time(seconds: float | None) -> str | None:
    """Return seconds, minutes or hours as text; None stays."""
    return None if seconds is None else duration(seconds)


def minutes(iso: str) -> str:
    """Return a time in UTC to the minute."""
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M} UTC"


def gigabytes(size: int | None) -> str | None:
    """Return bytes in units of 10^9."""
    return None if size is None else f"{size / 1e9:.2f} GB"
