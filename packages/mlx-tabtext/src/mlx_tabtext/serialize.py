"""Serialization options, and styles that turn a label and a value into a piece of text."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.schema import Column

Style: TypeAlias = Literal["list", "sentence", "great", "json", "markdown", "template"]
Missing: TypeAlias = Literal["omit", "unknown", "missing"]
Numbers: TypeAlias = Literal["value", "value+word", "word", "value+bin"]
Order: TypeAlias = Literal["importance", "table"]
Render: TypeAlias = Callable[[str], str]
"""Function from a formatted value to its piece."""

_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?")


@dataclass(frozen=True)
class TextConfig:
    """Options for serializing rows.

    `style`: `list` "age: 22; sex: male", `sentence` "The age is 22. The sex is male.", `great`
    "age is 22, sex is male" (GReaT, Borisov et al., 2023), `json`, `markdown` "- age: 22", or
    `template` with `template` set. `missing`: omit the column, or write the word. `digits`:
    significant digits of numbers. `numbers`: "22", "22 (low)", "low", or "22 (q3 of 10)", by
    quantiles of the training rows. `order`: most important column first, or table order; the budget
    drops the least important first in both cases. `include` and `exclude` are column names.
    `max_text_words` (0: no limit) truncates text cells.
    """

    style: Style = "list"
    template: str | None = None
    missing: Missing = "omit"
    digits: int = 4
    numbers: Numbers = "value"
    order: Order = "importance"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    max_text_words: int = 0

    def __post_init__(self) -> None:
        check_choice("style", self.style, get_args(Style))
        check_choice("missing", self.missing, get_args(Missing))
        check_choice("numbers", self.numbers, get_args(Numbers))
        check_choice("order", self.order, get_args(Order))
        if self.style == "template" and not self.template:
            raise ValueError("style 'template' needs template='... {Column} ...'")
        if self.style != "template" and self.template is not None:
            raise ValueError(f"template is given but style is {self.style!r}; use style='template'")
        if self.digits < 1:
            raise ValueError(f"digits must be at least 1, not {self.digits}")
        if self.max_text_words < 0:
            raise ValueError(f"max_text_words must be 0 or more, not {self.max_text_words}")
        if self.include is not None:
            object.__setattr__(self, "include", tuple(self.include))  # a list from JSON
        object.__setattr__(self, "exclude", tuple(self.exclude))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TextConfig":
        """Rebuild from `to_dict`; an unknown key is an error."""
        known = [each.name for each in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"TextConfig has no option {key!r}{did_you_mean(key, known)}")
        return cls(**values)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` with the nearest choice."""
    if value not in choices:
        raise ValueError(f"unknown {option} {value!r}{did_you_mean(str(value), choices)}")


@dataclass(frozen=True)
class Delimiters:
    """The strings between, before and after the pieces of a row."""

    separator: str
    prefix: str = ""
    suffix: str = ""

    def join(self, pieces: list[str]) -> str:
        """Return the text of one row."""
        return f"{self.prefix}{self.separator.join(pieces)}{self.suffix}"

    def in_context(self, piece: str) -> str:
        """Return a piece with its delimiters inside a text: ` age: 22;`."""
        mark = self.separator.rstrip()
        return f"{self.separator[len(mark) :]}{piece}{mark}"


DELIMITERS = {
    "list": Delimiters("; "),
    "sentence": Delimiters(" "),
    "great": Delimiters(", "),
    "json": Delimiters(", ", "{", "}"),
    "markdown": Delimiters("\n"),
    "template": Delimiters(" "),
}


def piece_renderer(style: str, column: Column, *, bare: bool) -> Render:
    """Return the function from a formatted value to the piece of this column.

    With `bare`, for a text column that is the only input, list, sentence and great omit the label.
    """
    label = column.label
    if style == "json":
        key = json.dumps(label, ensure_ascii=False)
        numeric = column.kind == "numeric"
        return lambda value: f"{key}: {_json_value(value, numeric)}"
    if style == "markdown":
        return lambda value: f"- {label}: {value}"
    if bare:
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
