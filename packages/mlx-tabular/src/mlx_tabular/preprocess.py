"""Turn the columns of a table into what TabM takes; everything is fitted on training rows only."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from mlx_tabular.tables import numbers_of

# As in scikit-learn: ranks nearer than this to 0 or 1 count as 0 or 1, and the ends of the normal
# are its quantiles at this distance (5.2 deviations).
BOUND = 1e-7
# Noise before the quantiles are fitted, in standard deviations: it separates equal values, so that
# a value that fills several quantiles is not mapped to a jump.
NOISE = 1e-5
MISSING = "<missing>"


class Inputs(NamedTuple):
    """Inputs of a model: float32 (N, n_num), int32 (N, n_cat), float32 (N, n_dense)."""

    num: np.ndarray
    cat: np.ndarray
    dense: np.ndarray


@dataclass(frozen=True)
class NumberColumn:
    """A number: center, scale and quantiles of training rows, and whether some lacked it.

    Quantiles are of (x - center) / scale, so that `BOUND` suits any unit; none if it is constant.
    """

    index: int
    center: float
    scale: float
    quantiles: list[float]
    has_missing: bool


@dataclass(frozen=True)
class CategoryColumn:
    """A category: the frequent ones, and whether training rows had rare ones.

    Codes are positions in `categories`. Rare and unseen categories share the next code; without
    rare ones its weights have learned nothing, and unseen categories are -1 (all zeros).
    """

    index: int
    categories: list[str]
    has_rare: bool


@dataclass(frozen=True)
class Preprocessor:
    """Fitted columns; `fit` makes it, `transform` applies it.

    Numbers: quantile transform to a normal, as scikit-learn's QuantileTransformer; missing values
    become 0, the median, with an indicator among the dense columns. Constant columns are left out.
    """

    n_columns: int
    numbers: list[NumberColumn]
    categories: list[CategoryColumn]
    dense: list[int]

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        *,
        categorical: Sequence[int] = (),
        dense: Sequence[int] = (),
        min_category_rows: int = 3,
        seed: int = 0,
    ) -> "Preprocessor":
        """Fit on training rows (N, columns): numbers, or objects with NaN or None for missing.

        Categories in fewer than `min_category_rows` rows count as rare. Columns in neither list
        are numbers.
        """
        rng = np.random.default_rng(seed)
        rest = [each for each in range(x.shape[1]) if each not in {*categorical, *dense}]
        return cls(
            n_columns=x.shape[1],
            numbers=[_fit_numbers(x, each, rng) for each in rest],
            categories=[_fit_categories(x, each, min_category_rows) for each in categorical],
            dense=[*map(int, dense)],
        )

    @property
    def cardinalities(self) -> list[int]:
        """Return the number of codes of each category, that of rare and unseen ones included."""
        return [len(each.categories) + 1 for each in self.categories]

    @property
    def n_num(self) -> int:
        """Return the number of numbers that are not constant."""
        return sum(bool(each.quantiles) for each in self.numbers)

    @property
    def n_dense(self) -> int:
        """Return the number of dense columns, indicators of missing values included."""
        count = len(self.dense) + sum(each.has_missing for each in self.numbers)
        return count or len(self._no_input(0))

    def transform(self, x: np.ndarray) -> Inputs:
        """Return the inputs of rows (N, columns); raises `ValueError` for what is not a number."""
        num, dense = [], [numbers_of(x, each, missing=False) for each in self.dense]
        for column in self.numbers:
            values = numbers_of(x, column.index)
            if column.quantiles:
                scaled = (values - column.center) / column.scale
                num.append(np.nan_to_num(quantile_normal(scaled, np.array(column.quantiles))))
            if column.has_missing:
                dense.append(np.isnan(values))
        cat = [_codes(x, each) for each in self.categories]
        return Inputs(
            _stack(num, len(x), np.float32),
            _stack(cat, len(x), np.int32),
            _stack(dense or self._no_input(len(x)), len(x), np.float32),
        )

    def _no_input(self, rows: int) -> list[np.ndarray]:
        """Return a column of zeros where all columns are constant: a model needs an input."""
        return [] if self.n_num or self.categories else [np.zeros(rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessor":
        """Rebuild from `to_dict`."""
        numbers = [NumberColumn(**each) for each in values["numbers"]]
        categories = [CategoryColumn(**each) for each in values["categories"]]
        return cls(values["n_columns"], numbers, categories, values["dense"])


def fit_quantiles(x: np.ndarray, n_quantiles: int | None = None) -> np.ndarray:
    """Return quantiles of (N,) values, NaN left out: rows / 30 of them, in [10, 1000] (TabM's)."""
    known = x[~np.isnan(x)]
    count = n_quantiles or max(min(len(x) // 30, 1000), 10)
    return np.quantile(known, np.linspace(0, 1, min(count, len(x))))


def quantile_normal(x: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Map (N,) values to their rank among `quantiles`, and that to a normal; NaN stays.

    The rank of a value that fills several quantiles is the middle of its first and last.
    """
    ranks = np.linspace(0, 1, len(quantiles))
    above = np.interp(x, quantiles, ranks)
    below = -np.interp(-x, -quantiles[::-1], -ranks[::-1])
    rank = (above + below) / 2
    rank[x + BOUND > quantiles[-1]] = 1
    rank[x - BOUND < quantiles[0]] = 0
    edge = BOUND - np.spacing(1)
    known = ~np.isnan(x)
    inverse = NormalDist().inv_cdf
    clipped = np.clip(rank[known], edge, 1 - edge)
    result = np.full(len(x), np.nan)
    result[known] = np.fromiter(map(inverse, clipped.tolist()), np.float64, len(clipped))
    return result


def _fit_numbers(x: np.ndarray, index: int, rng: np.random.Generator) -> NumberColumn:
    values = numbers_of(x, index)
    missing = np.isnan(values)
    known = values[~missing]
    # Drawn for constant columns too: what one column is does not change the noise of the next.
    noise = rng.normal(0, NOISE, len(values))
    center, scale, quantiles = 0.0, 1.0, []
    if len(known) and known.min() < known.max():
        center, scale = float(known.mean()), float(known.std())
        quantiles = fit_quantiles((values - center) / scale + noise).tolist()
    return NumberColumn(index, center, scale, quantiles, bool(missing.any() and len(known)))


def _fit_categories(x: np.ndarray, index: int, min_rows: int) -> CategoryColumn:
    counts = Counter(_names(x[:, index]))
    frequent = sorted(name for name, count in counts.items() if count >= min_rows)
    return CategoryColumn(index, frequent, len(frequent) < len(counts))


def _codes(x: np.ndarray, column: CategoryColumn) -> np.ndarray:
    codes = {name: code for code, name in enumerate(column.categories)}
    other = len(codes) if column.has_rare else -1
    return np.array([codes.get(name, other) for name in _names(x[:, column.index])], np.int32)


def _names(values: np.ndarray) -> Iterable[str]:
    """Return text for each value: 1, 1.0 and True are the same, None and NaN are missing."""
    return map(_name, values.tolist())


def _name(value: object) -> str:
    if value is None or value != value:
        return MISSING
    if isinstance(value, bool | np.bool_) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)


def _stack(columns: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    return np.stack(columns, 1).astype(dtype) if columns else np.zeros((rows, 0), dtype)
