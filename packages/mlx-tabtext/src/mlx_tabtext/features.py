"""Numbers and categories of rows as a matrix, for a model that reads them beside the text."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_tabtext.dates import date_values
from mlx_tabtext.numbers import numeric_values
from mlx_tabtext.schema import Schema
from mlx_tabtext.table import Table, is_missing

# Numbers are clipped to this many standard deviations; larger ones would dominate the head.
CLIP = 4.0
# Training rows that a category needs to get a column; the most frequent come first.
MIN_CATEGORY_ROWS, MAX_CATEGORIES = 5, 30


@dataclass(frozen=True)
class Number:
    """One number of a row: the value of a column, or a part of its date."""

    name: str
    part: str = "value"
    date_format: str | None = None
    number_format: str | None = None

    def values(self, table: Table) -> np.ndarray:
        """Return (N,) float64, NaN where missing."""
        if self.part == "value":
            return numeric_values(table, self.name, number_format=self.number_format)
        return date_values(table, self.name, self.part, date_format=self.date_format)  # type: ignore[arg-type]


def numbers_of(schema: Schema) -> list[Number]:
    """Return every number of a row."""
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
    """Standardization of one number; `missing` if it was ever missing in training."""

    number: Number
    log: bool
    mean: float
    deviation: float
    missing: bool


@dataclass(frozen=True)
class Categories:
    """The values of a categorical column that are one-hot encoded; "" is a missing cell."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class RowFeatures:
    """Standardized numbers (log1p if skewed), 0/1 if missing, and one-hot categories."""

    scales: tuple[Scale, ...]
    categories: tuple[Categories, ...] = ()

    @classmethod
    def fit(cls, schema: Schema, table: Table) -> "RowFeatures":
        """Learn means, deviations and categories from the training rows."""
        names = [column.name for column in schema.features if column.kind == "categorical"]
        found = [Categories(name, _frequent(table[name])) for name in names]
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
        """Return (N, count) float32; a missing number is 0, the mean; a rare category is 0."""
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
    def from_dict(cls, values: dict[str, Any]) -> "RowFeatures":
        """Rebuild from `to_dict`."""
        scales = [{**each, "number": Number(**each["number"])} for each in values["scales"]]
        categories = [
            Categories(each["name"], tuple(each["values"])) for each in values["categories"]
        ]
        return cls(tuple(Scale(**each) for each in scales), tuple(categories))


def _frequent(cells: list[Any]) -> tuple[str, ...]:
    counts = Counter(_category(cell) for cell in cells).most_common(MAX_CATEGORIES)
    return tuple(value for value, count in counts if MIN_CATEGORY_ROWS <= count < len(cells))


def _category(cell: Any) -> str:
    return "" if is_missing(cell) else str(cell)


def _skew(values: np.ndarray) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)
