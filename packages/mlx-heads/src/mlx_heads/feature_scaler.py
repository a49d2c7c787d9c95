"""Standardize numeric columns for a head, and say where values were missing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class FeatureScaler:
    """Standardizes columns, sets missing values to 0 (the mean) and appends their indicators.

    Fit it on training rows only. `clip` bounds standardized values, because a linear layer follows
    an outlier without limit.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    indicator_columns: tuple[int, ...]
    clip: float | None = 10.0

    @classmethod
    def fit(cls, x: ArrayLike, clip: float | None = 10.0) -> "FeatureScaler":
        """Fit to (N, F) training rows; NaN is a missing value, an infinite one is an error.

        The scale is the population standard deviation, or 1 for constant columns. A column without
        any value gets mean 0 and scale 1.
        """
        values = _columns(x)
        if not len(values):
            raise ValueError(f"x must have at least one row, got shape {values.shape}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive, or None for no limit, got {clip}")
        present = ~np.isnan(values)
        count = np.maximum(present.sum(axis=0), 1)
        mean = np.where(present, values, 0.0).sum(axis=0) / count
        centered = np.where(present, values - mean, 0.0)
        scale = np.sqrt(np.square(centered).sum(axis=0) / count)
        lowest = np.where(present, values, np.inf).min(axis=0)
        highest = np.where(present, values, -np.inf).max(axis=0)
        # The deviation of a constant column may be a rounding error instead of 0.
        scale = np.where((lowest >= highest) | (scale == 0.0), 1.0, scale)
        indicators = np.flatnonzero(~present.all(axis=0))
        return cls(tuple(mean.tolist()), tuple(scale.tolist()), tuple(indicators.tolist()), clip)

    @property
    def num_features(self) -> int:
        """The columns of `transform`: those of x, then one per column with missing values."""
        return len(self.mean) + len(self.indicator_columns)

    def transform(self, x: ArrayLike) -> np.ndarray:
        """Return (N, num_features) float32, all finite, for (N, F) rows.

        Indicators are 1 where a value is missing, in the order of the columns; a column that had no
        missing value in training has none.
        """
        values = _columns(x)
        if values.shape[1] != len(self.mean):
            raise ValueError(
                f"x must have the {len(self.mean)} columns that the scaler was fitted to, "
                f"got shape {values.shape}"
            )
        missing = np.isnan(values)
        scaled = (values - np.array(self.mean)) / np.array(self.scale)
        if self.clip is not None:
            scaled = np.clip(scaled, -self.clip, self.clip)
        scaled[missing] = 0.0
        indicators = missing[:, list(self.indicator_columns)]
        return np.concatenate([scaled, indicators], axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict for `from_dict`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FeatureScaler":
        """Invert `to_dict`; raises `TypeError` for missing or unknown keys."""
        as_tuples = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**as_tuples)  # type: ignore[arg-type]


def _columns(x: ArrayLike) -> np.ndarray:
    values = np.asarray(x, np.float64)
    if values.ndim != 2:
        raise ValueError(f"x must have shape (N, F), got {values.shape}")
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        row, column = infinite[0]
        raise ValueError(
            f"x must be finite or NaN (missing); row {row}, column {column} is "
            f"{values[row, column]}"
        )
    return values
