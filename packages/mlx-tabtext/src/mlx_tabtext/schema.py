"""The schema of a table: kind, label and formats of each column."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.table import TableError

Kind: TypeAlias = Literal[
    "numeric", "categorical", "text", "date", "boolean", "id", "target", "ignored"
]
KINDS: tuple[str, ...] = get_args(Kind)
NOT_INPUT = ("id", "target", "ignored")

_WORD_START = re.compile(
    r"(?<=[a-z]{2})(?=[A-Z])"  # SibSp, but not pH
    r"|(?<=[a-z])(?=[A-Z][a-z])"  # nRooms
    r"|(?<=[A-Z])(?=[A-Z][a-z])"  # MSZoning
    r"|(?<=[A-Za-z]{3})(?=[0-9])"  # Condition1, but not x1 or co2
    r"|(?<=[0-9])(?=[A-Z])"  # 3Ssn, but not 1st
)
_SEPARATORS = re.compile(r"[\s_.\-/]+")


@dataclass(frozen=True)
class Column:
    """One column.

    `label` replaces the name in texts, and `value_labels` coded cells (`{"S": "Southampton"}`).
    `reason` explains the kind. `date_format` is `"iso"` or a `strptime` format. `number_format` is
    `None` (plain) or for example `$1,234.5`; numeric targets have one too.
    """

    name: str
    kind: Kind
    label: str
    reason: str = ""
    value_labels: Mapping[str, str] = field(default_factory=dict)
    date_format: str | None = None
    number_format: str | None = None


@dataclass(frozen=True)
class Schema:
    """All columns of a table, in their order; `schema["Age"]` is one."""

    columns: tuple[Column, ...]

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns used as input, in table order."""
        return tuple(column for column in self.columns if column.kind not in NOT_INPUT)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the target columns."""
        return tuple(column.name for column in self.columns if column.kind == "target")

    @property
    def target(self) -> str | None:
        """The name of the (first) target column, if any."""
        return next(iter(self.targets), None)

    @property
    def id(self) -> str | None:
        """The name of the id column, if any."""
        return next((column.name for column in self.columns if column.kind == "id"), None)

    @cached_property
    def _by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def __getitem__(self, name: str) -> Column:
        if name not in self._by_name:
            raise TableError(f"no column {name!r} in the schema{did_you_mean(name, self._by_name)}")
        return self._by_name[name]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return {"columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Schema":
        """Rebuild from `to_dict`."""
        columns = tuple(Column(**column) for column in values["columns"])
        for column in columns:
            check_kind(column.name, column.kind)
        return cls(columns)


def check_kind(name: str, kind: str) -> None:
    """Raise `TableError` for an unknown kind."""
    if kind not in KINDS:
        raise TableError(f"column {name!r}: unknown kind {kind!r}{did_you_mean(kind, KINDS)}")


def humanize(name: str) -> str:
    """Return `SibSp` as `sib sp`, `bill_length_mm` as `bill length mm`, `1stFlrSF` as `1st flr sf`.

    A name without letters or digits is unchanged.
    """
    words = _SEPARATORS.sub(" ", _WORD_START.sub(" ", name)).strip().lower()
    return words if any(character.isalnum() for character in words) else name
