"""Groups of rows that share a value, such as a ticket or the first part of an id.

Every column says something about the *other* training rows of a group: a training row does not
count itself, so that it looks like a new row of the same group. Without others it is missing.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_kaggle.tables.dependence import Dependence
from mlx_tabtext import Number, Table, is_missing

Keys = list[str | None]


def group_keys(table: Table, column: str) -> Keys:
    """Return the group of each row; `None` where it is missing."""
    return [None if is_missing(cell) else str(cell).strip() for cell in table[column]]


@dataclass(frozen=True)
class GroupSize:
    """The number of other training rows in the group."""

    name: str
    label: str
    column: str
    counts: dict[str, int]
    kind: str = "numeric"

    def fit(self, table: Table, y: np.ndarray | None = None) -> "GroupSize":
        """Count the rows of each group."""
        keys = group_keys(table, self.column)
        return replace(self, counts=dict(Counter(key for key in keys if key is not None)))

    def transform(self, table: Table, own: int = 0) -> list[Any]:
        """Return the counts; `own=1` leaves out the row itself, for training rows."""
        keys = group_keys(table, self.column)
        return [None if key is None else float(self.counts.get(key, 0) - own) for key in keys]

    def transform_training(
        self, table: Table, y: np.ndarray | None = None, dependence: Dependence | None = None
    ) -> list[Any]:
        """Return the counts of the rows that it was fitted on."""
        return self.transform(table, own=1)


@dataclass(frozen=True)
class PerMember:
    """A number that the rows of a group share, such as the fare of a ticket, over their count."""

    name: str
    label: str
    number: Number
    size: GroupSize
    kind: str = "numeric"

    @property
    def column(self) -> str:
        """The column of the groups."""
        return self.size.column

    def fit(self, table: Table, y: np.ndarray | None = None) -> "PerMember":
        """Count the rows of each group."""
        return replace(self, size=self.size.fit(table))

    def transform(self, table: Table, own: int = 0) -> list[Any]:
        """Return number / (1 + others); the number itself if the group is missing."""
        sizes = self.size.transform(table, own)
        return [
            float(value / (1 + (others or 0))) if np.isfinite(value) else None
            for value, others in zip(self.number.values(table), sizes, strict=True)
        ]

    def transform_training(
        self, table: Table, y: np.ndarray | None = None, dependence: Dependence | None = None
    ) -> list[Any]:
        """Return the values of the rows that it was fitted on."""
        return self.transform(table, own=1)


@dataclass(frozen=True)
class FilledCategory:
    """A category; where it is missing, the most frequent one of the group."""

    name: str
    label: str
    column: str
    filled: str
    values: dict[str, str]
    kind: str = "categorical"

    def fit(self, table: Table, y: np.ndarray | None = None) -> "FilledCategory":
        """Find the most frequent category of each group, the first of equally frequent ones."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        cells = group_keys(table, self.filled)
        for key, cell in zip(group_keys(table, self.column), cells, strict=True):
            if key is not None and cell is not None:
                counts[key][cell] += 1
        return replace(
            self, values={key: each.most_common(1)[0][0] for key, each in counts.items()}
        )

    def transform(self, table: Table) -> list[Any]:
        """Return the cells, filled where the group is known."""
        cells, keys = group_keys(table, self.filled), group_keys(table, self.column)
        return [
            self.values.get(key) if cell is None and key is not None else cell
            for cell, key in zip(cells, keys, strict=True)
        ]

    def transform_training(
        self, table: Table, y: np.ndarray | None = None, dependence: Dependence | None = None
    ) -> list[Any]:
        """Return the same: a row whose cell is missing did not vote."""
        return self.transform(table)


@dataclass(frozen=True)
class GroupMean:
    """The mean of a number over the other training rows of the group."""

    name: str
    label: str
    column: str
    number: Number
    sums: dict[str, tuple[float, int]]
    kind: str = "numeric"

    def fit(self, table: Table, y: np.ndarray | None = None) -> "GroupMean":
        """Sum the number and count the rows that have it, by group."""
        sums: dict[str, tuple[float, int]] = {}
        values = self.number.values(table)
        for key, value in zip(group_keys(table, self.column), values, strict=True):
            if key is not None and np.isfinite(value):
                total, count = sums.get(key, (0.0, 0))
                sums[key] = total + float(value), count + 1
        return replace(self, sums=sums)

    def transform(self, table: Table, training: bool = False) -> list[Any]:
        """Return the means, `None` without other rows."""
        found: list[float | None] = []
        values = self.number.values(table)
        for key, value in zip(group_keys(table, self.column), values, strict=True):
            total, count = self.sums.get(key or "", (0.0, 0))
            if training and key is not None and np.isfinite(value):
                total, count = total - float(value), count - 1
            found.append(total / count if count else None)
        return found

    def transform_training(
        self, table: Table, y: np.ndarray | None = None, dependence: Dependence | None = None
    ) -> list[Any]:
        """Return the means without the row itself."""
        return self.transform(table, training=True)
