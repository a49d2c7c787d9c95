"""Metrics of prediction intervals: (N,) truth, (N, 2) lower and upper, (N,) weights, float64."""

import numpy as np


def coverage(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Share of truths within their interval, bounds included; the aim is the level, not 1."""
    inside = (predicted[:, 0] <= truth) & (truth <= predicted[:, 1])
    return float(np.average(inside, weights=weights))


def interval_width(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean of upper minus lower."""
    return float(np.average(predicted[:, 1] - predicted[:, 0], weights=weights))


def interval_score(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, *, level: float = 0.9
) -> float:
    """Mean width plus 2 / (1 - level) times the distance of the truth to the interval.

    Of Winkler (1972); least for the (1 - level) / 2 and (1 + level) / 2 quantiles.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    lower, upper = predicted.T
    outside = np.maximum(lower - truth, 0) + np.maximum(truth - upper, 0)
    return float(np.average(upper - lower + 2 / (1 - level) * outside, weights=weights))
