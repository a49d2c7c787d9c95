"""Scale regression targets for training, and convert predictions back to their unit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean

TargetTransform = Literal["standard", "log1p", "none"]

# log1p predictions are clipped to this factor of the training range: after exp, one outlier would
# dominate the score.
RANGE_FACTOR = 10.0
_LARGEST_LOG = 709.0  # exp of larger numbers overflows float64


@dataclass(frozen=True)
class TargetScaler:
    """Standardizes targets ("standard") or their log1p ("log1p"), or does nothing ("none").

    Fit it on training rows only. Use one scaler per output column.
    """

    target_transform: TargetTransform
    mean: float
    scale: float
    minimum: float
    maximum: float

    @classmethod
    def fit(cls, y: ArrayLike, transform: TargetTransform = "standard") -> "TargetScaler":
        """Fit to (N,) finite training targets; "log1p" needs all above -1.

        The scale is the population standard deviation, or 1 for constant targets.
        """
        valid = get_args(TargetTransform)
        if transform not in valid:
            raise ValueError(
                f"unknown transform {transform!r}{did_you_mean(str(transform), valid)}"
            )
        values = _finite(y, "y")
        if values.ndim != 1 or not values.size:
            raise ValueError(f"y must have shape (N,) with N at least 1, got {values.shape}")
        minimum, maximum = float(values.min()), float(values.max())
        if transform == "none":
            return cls(transform, 0.0, 1.0, minimum, maximum)
        values = _log1p(values) if transform == "log1p" else values
        scale = 1.0 if minimum == maximum else float(values.std())
        return cls(transform, float(values.mean()), scale or 1.0, minimum, maximum)

    def transform(self, y: ArrayLike) -> np.ndarray:
        """Return float32 targets for the loss, in the shape of `y`."""
        values = _finite(y, "y")
        if self.target_transform == "log1p":
            values = _log1p(values)
        return ((values - self.mean) / self.scale).astype(np.float32)

    def inverse(self, z: ArrayLike) -> np.ndarray:
        """Return float64 predictions in the unit of the targets, in the shape of `z`.

        With "log1p" they are clipped between a tenth of the smallest training value (-1 if any was
        negative) and ten times the largest, so infinite outputs become finite. Otherwise infinite
        outputs raise `ValueError`; NaN always does.
        """
        with np.errstate(over="ignore"):  # infinities are clipped or raise below
            values = np.asarray(z, np.float64) * self.scale + self.mean
        if self.target_transform == "log1p":
            lowest = self.minimum / RANGE_FACTOR if self.minimum >= 0.0 else -1.0
            highest = min(max(self.maximum, 0.0), np.finfo(np.float64).max / RANGE_FACTOR)
            values = np.expm1(np.minimum(values, _LARGEST_LOG))
            values = np.clip(values, lowest, highest * RANGE_FACTOR)
        return _finite(values, "z")

    def to_dict(self) -> dict[str, str | float]:
        """Return a JSON-serializable dict for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, str | float]) -> "TargetScaler":
        """Invert `to_dict`; raises `TypeError` for missing or unknown keys."""
        return cls(**values)  # type: ignore[arg-type]


def _finite(y: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(y, np.float64)
    wrong = np.argwhere(~np.isfinite(np.atleast_1d(values)))
    if len(wrong):
        raise ValueError(
            f"{name} must be finite; {len(wrong)} of {values.size} values are not, "
            f"the first in row {wrong[0][0]}"
        )
    return values


def _log1p(values: np.ndarray) -> np.ndarray:
    wrong = np.flatnonzero(values <= -1.0)
    if wrong.size:
        raise ValueError(
            f"log1p needs targets above -1; row {wrong[0]} is {values.flat[wrong[0]]:g}. "
            'Use transform="standard"'
        )
    return np.log1p(values)
