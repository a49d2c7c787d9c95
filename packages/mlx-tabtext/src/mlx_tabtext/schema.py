"""What each column of a table is: its kind, its spoken label, and why."""

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


@dataclass(frozen=True)
class Column:
    """One column.

    `reason` says in a few words why it has its kind. `words` are spoken in place of coded cells
    (`{"S": "Southampton"}`). `date_format` is `"iso"` or a `strptime` format, `number_format` how
    numbers are written, as `$1,234.5` (`None`: plain); a target of numbers has one too.
    """

    name: str
    kind: Kind
    label: str
    reason: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    date_format: str | None = None
    number_format: str | None = None


@dataclass(frozen=True)
class Schema:
    """All columns of a table, in its order. Iterate `columns`, or look one up: `schema["Age"]`."""

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
    """Raise `TableError` for a kind there is not."""
    if kind not in KINDS:
        raise TableError(f"column {name!r}: unknown kind {kind!r}{did_you_mean(kind, KINDS)}")
