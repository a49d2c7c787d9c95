"""Whether a model that says 80 % is right in 80 % of cases."""

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads.metrics.inputs import check_unit_interval


def calibration_curve(
    probability: ArrayLike, correct: ArrayLike, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (confidence, accuracy, count) of equal-width bins (lo, hi] over 0..1, each (bins,).

    `probability` (N,) is what the model said of its prediction, `correct` (N,) whether it was
    right. Confidence and accuracy are means over a bin, NaN where its count is zero; probability 0
    falls in the first bin.
    """
    said, right = np.asarray(probability, np.float64), np.asarray(correct, np.float64)
    if said.ndim != 1 or said.shape != right.shape or not said.size:
        raise ValueError(
            f"probability and correct must both have shape (N,) with N at least 1, "
            f"got {said.shape} and {right.shape}"
        )
    check_unit_interval(said, "probability")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    number = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], said)
    count = np.bincount(number, minlength=bins)
    confidence, accuracy = (
        np.divide(total, count, out=np.full(bins, np.nan), where=count > 0)
        for total in (np.bincount(number, values, bins) for values in (said, right))
    )
    return confidence, accuracy, count


def expected_calibration_error(probability: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Return the mean gap |accuracy - confidence| over bins, weighted by rows (Guo 2017, eq. 3)."""
    confidence, accuracy, count = calibration_curve(probability, correct, bins)
    filled = count > 0
    gaps = np.abs(accuracy - confidence)[filled]
    return float(np.average(gaps, weights=count[filled]))
