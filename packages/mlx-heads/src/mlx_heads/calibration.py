"""Calibration: are predictions with 80 % probability correct in 80 % of cases?"""

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads.metrics.inputs import check_unit_interval


def calibration_curve(
    probability: ArrayLike, correct: ArrayLike, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (confidence, accuracy, count) of equal-width bins (lo, hi] over 0..1, each (bins,).

    `probability` (N,) is the model's probability of its prediction, `correct` (N,) whether that was
    correct. Confidence and accuracy are means over a bin, NaN if it is empty; probability 0 is in
    the first bin.
    """
    probability, correct = np.asarray(probability, np.float64), np.asarray(correct, np.float64)
    if probability.ndim != 1 or probability.shape != correct.shape or not probability.size:
        raise ValueError(
            f"probability and correct must both have shape (N,) with N at least 1, "
            f"got {probability.shape} and {correct.shape}"
        )
    check_unit_interval(probability, "probability")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    number = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability)
    count = np.bincount(number, minlength=bins)
    confidence, accuracy = (
        np.divide(total, count, out=np.full(bins, np.nan), where=count > 0)
        for total in (np.bincount(number, values, bins) for values in (probability, correct))
    )
    return confidence, accuracy, count


def expected_calibration_error(probability: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Return the mean |accuracy - confidence| over bins, weighted by rows (Guo 2017, eq. 3)."""
    confidence, accuracy, count = calibration_curve(probability, correct, bins)
    filled = count > 0
    gaps = np.abs(accuracy - confidence)[filled]
    return float(np.average(gaps, weights=count[filled]))
