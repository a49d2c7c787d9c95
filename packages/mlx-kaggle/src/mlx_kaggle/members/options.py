"""The options of a member: what `--set options.MEMBER.NAME=VALUE` takes, and where tuning looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_trainer.settings import Range

# Of a member that is trained with its own settings.
NO_OPTIONS: Mapping[str, Any] = {}


ANY = Range()


@dataclass(frozen=True)
class Option:
    """A number with the range that is searched, and the wider range that is allowed; or choices."""

    low: float = 0
    high: float = 0
    log: bool = False
    """Whether the search draws the logarithm."""
    allowed: Range = ANY
    choices: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are allowed."""
        return isinstance(self.low, int) and not self.choices

    def read(self, value: Any) -> Any:
        """Return a valid value as the member takes it: 1 may be one column, 1.0 is all of them."""
        return value if self.whole or self.choices else float(value)

    def problem(self, value: object) -> str | None:
        """Return what is wrong with a value, such as "must be at least 1, got 0"."""
        if self.choices:
            valid = ", ".join(self.choices)
            return None if value in self.choices else f"must be one of {valid}; got {value!r}"
        kind = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind):
            return f"must be a {'whole ' if self.whole else ''}number, got {value!r}"
        return None if value in self.allowed else f"must be {self.allowed}, got {value}"


def positive(low: float, high: float, *, log: bool = True) -> Option:
    """Return an option above 0; of whole numbers if `low` is one."""
    allowed = Range(at_least=1) if isinstance(low, int) else Range(above=0)
    return Option(low, high, log, allowed)


def share(low: float, high: float) -> Option:
    """Return an option above 0 and at most 1, such as a share of the columns."""
    return Option(low, high, allowed=Range(above=0, at_most=1))
