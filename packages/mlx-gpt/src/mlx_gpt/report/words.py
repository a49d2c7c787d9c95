"""Numbers as a person reads them, and the few forms of Markdown that the report has."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mlx_gpt.training.display import duration

ABSENT = "-"


def bullets(values: Mapping[str, Any], absent: str = "not measured") -> list[str]:
    """Return a list, a line for each value; `absent` stands for None."""
    lines = [""]
    for name, value in values.items():
        text = absent if value is None else number(value)
        lines.append(f"- {name}: {plain(text)}")
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table."""
    cells = [[_cell(each) for each in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{'---|' * len(header)}", *lines[1:]]


def _cell(value: Any) -> str:
    return plain(number(value)).replace("|", "\\|")


def plain(text: str) -> str:
    """Return text on one line."""
    return " ".join(str(text).split())


def number(value: Any, digits: int = 4) -> str:
    """Return a number as text; None is a dash, and text stays."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) >= 10**-digits or not value else f"{value:.2g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def time(seconds: float | None) -> str | None:
    """Return seconds in the unit that suits them; None stays."""
    return None if seconds is None else duration(seconds)


def moment(iso: str) -> str:
    """Return a time in UTC to the minute."""
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M} UTC"


def gigabytes(size: int | None) -> str | None:
    """Return bytes in units of 10^9."""
    return None if size is None else f"{size / 1e9:.2f} GB"
