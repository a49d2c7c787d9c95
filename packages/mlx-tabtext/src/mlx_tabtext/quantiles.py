"""Where a number stands among the training rows: low, high, third of ten."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

WORDS = ("very low", "low", "medium", "high", "very high")
YEAR_WORDS = ("very early", "early", "middle", "late", "very late")
BINS = 10
FEW_VALUES = 12  # the months of a year
"""A column with at most this many distinct numbers gets no word: its values speak for it."""

_KNOTS = 21  # one quantile every 5 %


@dataclass(frozen=True)
class NumberScale:
    """What is remembered of one numeric column of the training rows."""

    quantiles: tuple[float, ...]
    deviation: float
    few_values: bool
    years: bool = False

    @classmethod
    def fit(cls, values: np.ndarray, *, years: bool = False) -> "NumberScale":
        """Learn from a column of float64; NaN is ignored. `years` are early or late, not low."""
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

    def position(self, value: float) -> float:
        """Return the share of training values below `value`, from 0 to 1.

        A value that many rows share takes the middle of its own span; the smallest and the
        largest training value take the ends, so that a zero most rows have is "very low".
        """
        if value <= self.quantiles[0]:
            return 0.0
        if value >= self.quantiles[-1]:
            return 1.0
        left, right = bisect_left(self.quantiles, value), bisect_right(self.quantiles, value)
        middle = ((left + right) / 2 - 0.5) / (_KNOTS - 1)
        return min(max(middle, 0.0), 1.0)

    def word(self, value: float) -> str | None:
        """Return one of `WORDS`, a fifth of the training values each; `None` for few values."""
        if self.few_values:
            return None
        words = YEAR_WORDS if self.years else WORDS
        return words[min(int(self.position(value) * len(words)), len(words) - 1)]

    def bin(self, value: float) -> str | None:
        """Return `q3 of 10`; `None` for a column of few values."""
        if self.few_values:
            return None
        return f"q{min(int(self.position(value) * BINS), BINS - 1) + 1} of {BINS}"
