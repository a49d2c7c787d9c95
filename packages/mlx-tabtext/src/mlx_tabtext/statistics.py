"""Statistics of the training rows: column ranking, free-text columns, quantiles of numbers."""

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_tabtext.importance import score_column
from mlx_tabtext.numbers import numeric_values
from mlx_tabtext.schema import Column, humanize
from mlx_tabtext.table import Table, is_missing

FREE_TEXT_WORDS = 5
"""Text columns with this many words per cell on average are free text: first in the ranking."""

WORDS = ("very low", "low", "medium", "high", "very high")
YEAR_WORDS = ("very early", "early", "middle", "late", "very late")
BINS = 10
FEW_VALUES = 12  # the months of a year
"""Columns with at most this many distinct numbers get no word and no bin."""

_KNOTS = 21  # one quantile every 5 %
_LEAK = 0.95  # from this importance on, a column may be a leak

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NumberStatistics:
    """Statistics of one numeric column of the training rows."""

    quantiles: tuple[float, ...]
    deviation: float
    few_values: bool
    years: bool = False

    @classmethod
    def fit(cls, values: np.ndarray, *, years: bool = False) -> "NumberStatistics":
        """Fit on float64 values, ignoring NaN; `years` are "early" or "late", not "low"."""
        known = values[np.isfinite(values)]
        if len(known) == 0:
            return cls((), 0.0, few_values=True)
        quantiles = np.quantile(known, np.linspace(0, 1, _KNOTS))
        return cls(
            tuple(float(each) for each in quantiles),
            float(known.std()),
            few_values=len(np.unique(known)) <= FEW_VALUES,
            years=years and bool(known.min() > 1000 and known.max() < 3000),
        )

    def rank(self, value: float) -> float:
        """Return the quantile rank of `value`, from 0 to 1.

        A frequent value has the middle of its ranks, but the smallest training value has 0 and the
        largest 1, so that a zero in most rows is "very low".
        """
        if value <= self.quantiles[0]:
            return 0.0
        if value >= self.quantiles[-1]:
            return 1.0
        left, right = bisect_left(self.quantiles, value), bisect_right(self.quantiles, value)
        middle = ((left + right) / 2 - 0.5) / (_KNOTS - 1)
        return min(max(middle, 0.0), 1.0)

    def word(self, value: float) -> str | None:
        """Return one of `WORDS`, for fifths of the training values; `None` for few values."""
        if self.few_values:
            return None
        words = YEAR_WORDS if self.years else WORDS
        return words[min(int(self.rank(value) * len(words)), len(words) - 1)]

    def bin(self, value: float) -> str | None:
        """Return `q3 of 10`; `None` for few values."""
        if self.few_values:
            return None
        return f"q{min(int(self.rank(value) * BINS), BINS - 1) + 1} of {BINS}"


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training rows.

    `ranking` has the column names, the most important first; `importance` is from 0 to 1, and
    empty without a target; `free_text` names the columns of long texts.
    """

    ranking: tuple[str, ...]
    importance: dict[str, float]
    free_text: tuple[str, ...]
    numbers: dict[str, NumberStatistics]

    @classmethod
    def fit(
        cls, table: Table, columns: Sequence[Column], targets: Sequence[np.ndarray] | None
    ) -> "Statistics":
        """Fit on training rows; `targets` are arrays of class codes (`encode_targets`)."""
        free_text = _find_free_text(table, columns)
        scores = {} if targets is None else _scores(table, columns, targets)
        others = (column.name for column in columns if column.name not in free_text)
        return cls(
            ranking=(*free_text, *sorted(others, key=lambda name: -scores.get(name, 0.0))),
            importance=scores,
            free_text=free_text,
            numbers={c.name: _number_statistics(table, c) for c in columns if c.kind == "numeric"},
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Statistics":
        """Rebuild from `dataclasses.asdict`, also after a JSON round trip."""
        numbers = {
            name: NumberStatistics(**{**column, "quantiles": tuple(column["quantiles"])})
            for name, column in values["numbers"].items()
        }
        ranking, free_text = tuple(values["ranking"]), tuple(values["free_text"])
        return cls(ranking, dict(values["importance"]), free_text, numbers)


def _scores(
    table: Table, columns: Sequence[Column], targets: Sequence[np.ndarray]
) -> dict[str, float]:
    scores = {column.name: score_column(table, column, targets) for column in columns}
    for name, score in scores.items():
        if score >= _LEAK:
            _log.warning("column %r alone predicts the target: is it a leak?", name)
    return scores


def _find_free_text(table: Table, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the free-text columns, the shortest first: a title before its body."""
    lengths = {}
    for column in columns:
        if column.kind == "text":
            words = [len(str(cell).split()) for cell in table[column.name] if not is_missing(cell)]
            lengths[column.name] = sum(words) / max(len(words), 1)
    free_text = [name for name, length in lengths.items() if length >= FREE_TEXT_WORDS]
    return tuple(sorted(free_text, key=lambda name: lengths[name]))


def _number_statistics(table: Table, column: Column) -> NumberStatistics:
    years = bool({"year", "yr"} & set(humanize(column.name).split()))
    values = numeric_values(table, column.name, number_format=column.number_format)
    return NumberStatistics.fit(values, years=years)
