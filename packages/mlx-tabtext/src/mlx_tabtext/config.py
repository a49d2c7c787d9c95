"""The choices of how a row is spoken."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mlx_tabtext._suggest import did_you_mean

Style: TypeAlias = Literal["list", "sentence", "great", "json", "markdown", "template"]
Missing: TypeAlias = Literal["omit", "unknown", "missing"]
Numbers: TypeAlias = Literal["value", "value+word", "word", "value+bin"]
Order: TypeAlias = Literal["usefulness", "table"]


@dataclass(frozen=True)
class TextConfig:
    """How rows become text.

    `style`: `list` "age: 22; sex: male", `sentence` "The age is 22. The sex is male.", `great`
    "age is 22, sex is male", `json`, `markdown` "- age: 22", or `template` with `template` set.
    `missing`: leave the column out, or say the word. `digits`: significant digits of numbers.
    `numbers`: "22", "22 (low)", "low", or "22 (q3 of 10)", by the quantiles of the training rows.
    `order`: most useful column first, or as in the table; the budget drops the least useful first
    in either case. `include` and `exclude` name columns; `max_text_words` (0: no limit) cuts long
    text cells after that many words.
    """

    style: Style = "list"
    template: str | None = None
    missing: Missing = "omit"
    digits: int = 4
    numbers: Numbers = "value"
    order: Order = "usefulness"
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
            object.__setattr__(self, "include", tuple(self.include))  # JSON gives a list
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
    """Raise `ValueError` naming the nearest choice."""
    if value not in choices:
        raise ValueError(f"unknown {option} {value!r}{did_you_mean(str(value), choices)}")
