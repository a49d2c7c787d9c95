"""Prediction intervals that cover as many rows as they say, from held-out rows."""

import math

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads.metrics import inputs


def fit_interval_scale(
    y_true: ArrayLike,
    value: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    coverage: float = 0.9,
) -> float:
    """Return the factor for both half-widths with which intervals cover `coverage` of new rows.

    All are (N,) or (N, T), with lower <= value <= upper; the interval becomes value - f (value -
    lower) to value + f (upper - value). f is the ceil((n + 1) coverage)-th smallest factor that
    each of the n numbers needs (split conformal, Lei 2018), so new rows like these are covered with
    at least that probability; numbers of one row (N, T) count as independent.
    """
    truth, value, lower, upper = (
        np.asarray(each, np.float64) for each in (y_true, value, lower, upper)
    )
    shapes = {each.shape for each in (truth, value, lower, upper)}
    if len(shapes) > 1 or truth.ndim not in (1, 2) or not truth.size:
        raise ValueError(
            f"y_true, value, lower and upper must have one shape, (N,) or (N, T), got "
            f"{truth.shape}, {value.shape}, {lower.shape} and {upper.shape}"
        )
    for name, array in (("y_true", truth), ("value", value), ("lower", lower), ("upper", upper)):
        inputs.check_finite(array, name)
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
    wrong = np.argwhere((lower > value) | (value > upper))
    if len(wrong):
        at = tuple(wrong[0])
        raise ValueError(
            f"lower <= value <= upper must hold, row {at[0]} has {lower[at]:g}, {value[at]:g} "
            f"and {upper[at]:g}; sort the quantiles first"
        )
    error = truth - value
    width = np.where(error > 0, upper - value, value - lower)
    needed = np.where(error == 0, 0.0, np.inf)  # no factor makes an interval without width cover
    np.divide(np.abs(error), width, out=needed, where=width > 0)
    rank = math.ceil((truth.size + 1) * coverage - 1e-9)
    if rank > truth.size:
        least = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise ValueError(f"coverage {coverage} needs at least {least} rows, got {truth.size}")
    factor = float(np.partition(needed.ravel(), rank - 1)[rank - 1])
    if math.isinf(factor):
        raise ValueError(
            f"no factor covers {coverage} of the rows: {np.isinf(needed).sum()} of {truth.size} "
            "intervals have no width and miss"
        )
    return factor
