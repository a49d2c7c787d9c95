"""Numbers of a row for the head: numeric, boolean and date columns, fitted on train only."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_tabtext import Schema, Table, date_values, numeric_values

# Beyond this many deviations a value says no more than "extreme", and would swing the head.
CLIP = 4.0


@dataclass(frozen=True)
class Number:
    """One number a row holds: the value of a column, or a part of its date."""

    name: str
    part: str = "value"
    date_format: str | None = None

    def values(self, table: Table) -> np.ndarray:
        """(N,) float64, NaN where there is none."""
        if self.part == "value":
            return numeric_values(table, self.name)
        return date_values(table, self.name, self.part, date_format=self.date_format)  # type: ignore[arg-type]


def numbers_of(schema: Schema) -> list[Number]:
    """Every number a row of this schema holds."""
    found = []
    for column in schema.features:
        if column.kind in ("numeric", "boolean"):
            found.append(Number(column.name))
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
class NumericFeatures:
    """Standardized values (of log1p where skewed), and a 0/1 column where any was missing."""

    scales: tuple[Scale, ...]

    @classmethod
    def fit(cls, schema: Schema, table: Table) -> "NumericFeatures":
        """Learn means and deviations from the training rows."""
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
        return cls(tuple(scales))

    @property
    def count(self) -> int:
        """Width of the matrix."""
        return sum(1 + scale.missing for scale in self.scales)

    def transform(self, table: Table) -> np.ndarray:
        """(N, count) float32; a missing value is 0, the training mean."""
        columns = []
        for scale in self.scales:
            values = scale.number.values(table)
            known = np.log1p(np.maximum(values, 0)) if scale.log else values
            scaled = (known - scale.mean) / scale.deviation
            columns.append(np.clip(np.nan_to_num(scaled), -CLIP, CLIP))
            if scale.missing:
                columns.append(np.isnan(values).astype(np.float64))
        return np.stack(columns, 1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NumericFeatures":
        """Rebuild from `to_dict`."""
        scales = [{**each, "number": Number(**each["number"])} for each in values["scales"]]
        return cls(tuple(Scale(**each) for each in scales))


def _skew(values: np.ndarray) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)
