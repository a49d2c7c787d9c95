"""What is learned from the training rows, and only from them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_tabtext.labels import humanize
from mlx_tabtext.quantiles import NumberScale
from mlx_tabtext.schema import Column
from mlx_tabtext.table import Table
from mlx_tabtext.usefulness import column_score
from mlx_tabtext.values import is_missing, numeric_values

PROSE_WORDS = 5
"""Text columns with this many words a cell on average are prose: the first and last to keep."""

_LEAK = 0.95  # share of the target a single column may tell before it is suspicious

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """Names of the columns, the most useful first, their usefulness (0 to 1; empty without a
    target), which of them are prose, and the quantiles of the numeric ones.
    """

    order: tuple[str, ...]
    usefulness: dict[str, float]
    prose: tuple[str, ...]
    scales: dict[str, NumberScale]

    @classmethod
    def learn(
        cls, table: Table, columns: Sequence[Column], targets: Sequence[np.ndarray] | None
    ) -> "Fitted":
        """Learn from training rows; `targets` are arrays of class codes (`target_codes`)."""
        prose = _prose(table, columns)
        scores = {} if targets is None else _scores(table, columns, targets)

        def place(name: str) -> tuple[int, float]:
            return (prose.index(name) if name in prose else len(prose), -scores.get(name, 0.0))

        return cls(
            order=tuple(sorted((column.name for column in columns), key=place)),
            usefulness=scores,
            prose=prose,
            scales={c.name: _scale(table, c) for c in columns if c.kind == "numeric"},
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fitted":
        """Rebuild from `dataclasses.asdict`, also after a JSON round trip."""
        scales = {
            name: NumberScale(**{**scale, "quantiles": tuple(scale["quantiles"])})
            for name, scale in values["scales"].items()
        }
        order, prose = tuple(values["order"]), tuple(values["prose"])
        return cls(order, dict(values["usefulness"]), prose, scales)


def _scores(
    table: Table, columns: Sequence[Column], targets: Sequence[np.ndarray]
) -> dict[str, float]:
    scores = {column.name: column_score(table, column, targets) for column in columns}
    for name, score in scores.items():
        if score >= _LEAK:
            _log.warning("column %r alone tells the target: a leak?", name)
    return scores


def _prose(table: Table, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the prose columns, the shortest first: a title before its body."""
    lengths = {}
    for column in columns:
        if column.kind == "text":
            words = [len(str(cell).split()) for cell in table[column.name] if not is_missing(cell)]
            lengths[column.name] = sum(words) / max(len(words), 1)
    prose = [name for name, length in lengths.items() if length >= PROSE_WORDS]
    return tuple(sorted(prose, key=lambda name: lengths[name]))


def _scale(table: Table, column: Column) -> NumberScale:
    years = bool({"year", "yr"} & set(humanize(column.name).split()))
    values = numeric_values(table, column.name, number_format=column.number_format)
    return NumberScale.fit(values, years=years)
