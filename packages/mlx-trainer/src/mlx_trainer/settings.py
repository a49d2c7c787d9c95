"""Declare a setting once, in the dataclass: its default, help, command-line flag and range.

`load_config` checks the ranges, `command_line.settings_options` makes the flags. Importing this
module costs nothing, so that a command line can derive its `--help` from a configuration.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal

_MOST_INTEGER = 2**63 - 1  # of 64 bits


class ConfigError(ValueError):
    """A configuration has an unknown key, a wrong type or value, or no value for a required key."""

    exit_code = 2  # of a command line: wrong usage


@dataclass(frozen=True)
class Range:
    """The range of a number; None means no bound, `or_zero` also allows 0."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    or_zero: bool = False

    def __contains__(self, value: float) -> bool:
        if self.or_zero and value == 0:
            return True
        return not (
            math.isnan(value)
            or (self.at_least is not None and value < self.at_least)
            or (self.at_most is not None and value > self.at_most)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            text = f"from {self.at_least} to {self.at_most}"
        else:
            bounds = {"at least": self.at_least, "above": self.above,
                      "below": self.below, "at most": self.at_most}  # fmt: skip
            given = [f"{words} {bound}" for words, bound in bounds.items() if bound is not None]
            text = " and ".join(given)
        return f"{text}, or 0" if self.or_zero else text


@dataclass(frozen=True)
class Setting:
    """The declaration that `setting` attaches to a field, under the metadata key "setting"."""

    help: str
    flag: str | None
    range: Range
    infinite: bool
    default_text: str | None
    metavar: str | None
    path: Literal["file", "folder", "any"] | None
    parse: Callable[[str], object] | None
    check: Callable[[Any], None] | None
    complete: Callable[[], Iterable[str]] | None


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flag: str | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    or_zero: bool = False,
    infinite: bool = False,
    default_text: str | None = None,
    metavar: str | None = None,
    path: Literal["file", "folder", "any"] | None = None,
    parse: Callable[[str], object] | None = None,
    check: Callable[[Any], None] | None = None,
    complete: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """Return a dataclass field; without a `default` it is required.

    `flag` is its command-line flag ("--depth", "--cache/--no-cache"); without one, only a file or
    an override sets the field. Lists and dicts are copied for each object. `infinite` allows
    infinity; NaN is always refused. `--help` shows `default_text` instead of the default. A `path`
    given as a flag must exist; `parse` converts a flag's text to the value, and raises `ValueError`
    for invalid text. `check` raises `ValueError` for a value from any source that is not allowed.
    `complete` returns the words that a shell completes for the flag.
    """
    limits = Range(at_least, at_most, above, below, or_zero)
    about = Setting(help, flag, limits, infinite, default_text, metavar, path, parse, check,
                    complete)  # fmt: skip
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata={"setting": about})
    return field(default=default, metadata={"setting": about})


def setting_of(each: Field) -> Setting | None:
    """Return the declaration of a field by `setting`, None for a plain field."""
    return each.metadata.get("setting")


def check_settings(config: object) -> None:
    """Raise `ConfigError` with the dotted key of the first value outside its range."""
    for key, value, about in _settings(config, ""):
        if problem := range_problem(value, about):
            raise ConfigError(f"{key} {problem}")


def range_problem(value: object, about: Setting) -> str | None:
    """Return the error of a number outside its range, such as `must be at least 1, got 0`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value not in about.range:
        return f"must be {about.range}, got {value}"
    if isinstance(value, int) and abs(value) > _MOST_INTEGER:
        return f"must be below 2^63, got {value}"
    return None


def _settings(config: object, prefix: str) -> Iterator[tuple[str, object, Setting]]:
    """Yield key, value and declaration of each setting of a configuration, in order."""
    assert is_dataclass(config)
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{each.name}.")
        elif about := setting_of(each):
            yield f"{prefix}{each.name}", value, about
