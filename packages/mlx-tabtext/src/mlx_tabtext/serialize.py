"""One column's label and value as a piece of text, in each style."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from mlx_tabtext.schema import Column

Build = Callable[[str], str]
"""Spoken value to piece."""

_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?")


@dataclass(frozen=True)
class Frame:
    """What stands between, before and after the pieces of a row."""

    separator: str
    opening: str = ""
    closing: str = ""

    def join(self, pieces: list[str]) -> str:
        """Return the text of one row."""
        return f"{self.opening}{self.separator.join(pieces)}{self.closing}"

    def inside(self, piece: str) -> str:
        """Return a piece as it stands in mid-text: ` age: 22;`."""
        mark = self.separator.rstrip()
        return f"{self.separator[len(mark) :]}{piece}{mark}"


FRAMES = {
    "list": Frame("; "),
    "sentence": Frame(" "),
    "great": Frame(", "),
    "json": Frame(", ", "{", "}"),
    "markdown": Frame("\n"),
    "template": Frame(" "),
}


def piece_builder(style: str, column: Column, *, alone: bool) -> Build:
    """Return the function from a spoken value to the piece of this column.

    `alone`: this text column is the only input, so list, sentence and great give the bare text.
    """
    label = column.label
    if style == "json":
        key = json.dumps(label, ensure_ascii=False)
        numeric = column.kind == "numeric"
        return lambda value: f"{key}: {_json_value(value, numeric)}"
    if style == "markdown":
        return lambda value: f"- {label}: {value}"
    if alone:
        return lambda value: value
    if style == "sentence":
        return lambda value: f"The {label} is {value}{'' if value[-1:] in '.!?' else '.'}"
    if style == "great":
        return lambda value: f"{label} is {value}"
    return lambda value: f"{label}: {value}"


def _json_value(value: str, numeric: bool) -> str:
    if numeric and _JSON_NUMBER.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
