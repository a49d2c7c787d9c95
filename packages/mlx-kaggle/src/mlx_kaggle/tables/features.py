"""What of a row feeds the head beside its text: numbers and categories, fitted on train only."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_tabtext import Schema, Table, date_values, is_missing, numeric_values

# Beyond this many deviations a value says no more than "extreme", and would swing the head.
CLIP = 4.0
# A category gets a column of its own from this many training rows on, the most frequent first.
MIN_ROWS, MAX_CATEGORIES = 5, 30


@dataclass(frozen=True)
class Number:
    """One number a row holds: the value of a column, or a part of its date."""

    name: str
    part: str = "value"
    date_format: str | None = None
    number_format: str | None = None

    def values(self, table: Table) -> np.ndarray:
        """(N,) float64, NaN where there is none."""
        if self.part == "value":
            return numeric_values(table, self.name, number_format=self.number_format)
        return date_values(table, self.name, self.part, date_format=self.date_format)  # type: ignore[arg-type]


def numbers_of(schema: Schema) -> list[Number]:
    """Every number a row of this schema holds."""
    found = []
    for column in schema.features:
        if column.kind in ("numeric", "boolean"):
            found.append(Number(column.name, number_format=column.number_format))
        elif column.kind == "date":
            parts = ("year", "month", "weekday", "days")
            found += [Number(column.name, part, column.date_format) for part in parts]
    return found


@dataclass(frozen=True)
class Scale:
    """How one number is standardized, and whether it was ever missing in training."""

    number: Number
    log: bool
    mean: float
    deviation: float
    missing: bool


@dataclass(frozen=True)
class Categories:
    """The values of a categorical column that get a 0/1 column each; "" stands for missing."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class HeadFeatures:
    """Standardized numbers (of log1p where skewed), a 0/1 column where any was missing, one-hot."""

    scales: tuple[Scale, ...]
    categories: tuple[Categories, ...] = ()

    @classmethod
    def fit(cls, schema: Schema, table: Table) -> "HeadFeatures":
        """Learn means, deviations and categories from the training rows."""
        kinds = [column.name for column in schema.features if column.kind == "categorical"]
        found = [Categories(name, _frequent(table[name])) for name in kinds]
        categories = tuple(each for each in found if each.values)
        scales = []
        for number in numbers_of(schema):
            values = number.values(table)
            known = values[np.isfinite(values)]
            if len(known) == 0 or np.ptp(known) == 0:
                continue
            log = bool(known.min() >= 0 and _skew(known) > 1)
            known = np.log1p(known) if log else known
            missing = bool(np.isnan(values).any())
            scales.append(Scale(number, log, float(known.mean()), float(known.std()), missing))
        return cls(tuple(scales), categories)

    @property
    def count(self) -> int:
        """Width of the matrix."""
        numbers = sum(1 + scale.missing for scale in self.scales)
        return numbers + sum(len(each.values) for each in self.categories)

    def transform(self, table: Table) -> np.ndarray:
        """(N, count) float32; a missing number is 0, the training mean; a rare category all 0."""
        columns = []
        for scale in self.scales:
            values = scale.number.values(table)
            known = np.log1p(np.maximum(values, 0)) if scale.log else values
            scaled = (known - scale.mean) / scale.deviation
            columns.append(np.clip(np.nan_to_num(scaled), -CLIP, CLIP))
            if scale.missing:
                columns.append(np.isnan(values).astype(np.float64))
        for each in self.categories:
            cells = np.array([_category(cell) for cell in table[each.name]], dtype=object)
            columns += [(cells == value).astype(np.float64) for value in each.values]
        return np.stack(columns, 1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HeadFeatures":
        """Rebuild from `to_dict`."""
        scales = [{**each, "number": Number(**each["number"])} for each in values["scales"]]
        categories = [
            Categories(each["name"], tuple(each["values"])) for each in values["categories"]
        ]
        return cls(tuple(Scale(**each) for each in scales), tuple(categories))


def _frequent(cells: list[Any]) -> tuple[str, ...]:
    counts = Counter(_category(cell) for cell in cells).most_common(MAX_CATEGORIES)
    return tuple(value for value, count in counts if MIN_ROWS <= count < len(cells))


def _category(cell: Any) -> str:
    return "" if is_missing(cell) else str(cell)


def _skew(values: np.ndarray) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)
