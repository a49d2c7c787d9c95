"""Stacking: the weights on the simplex (not negative, sum 1) with the lowest loss; convex."""

import numpy as np
from scipy.optimize import nnls

from mlx_kaggle.blend.loss import SMALLEST_PROBABILITY, Loss

# The mean log loss is at most this far above the lowest one.
LOG_GAP, SMALLEST_STEP = 1e-6, 1e-6
# Absolute errors: steps of reweighting, and the smallest error as a fraction of the mean error.
ABSOLUTE_STEPS, ABSOLUTE_FLOOR = 50, 1e-3


def stack_weights(reduced: np.ndarray, loss: Loss, rng: np.random.Generator) -> np.ndarray:
    """Return weights (M,) for `Loss.reduce` of M members (M, N, J)."""
    columns = reduced.reshape(len(reduced), -1)
    if loss.kind in ("log", "labels"):
        return _most_likely(columns)
    if loss.kind == "squared":
        return _least_squares(columns)
    return _least_absolute(columns)


def _most_likely(probabilities: np.ndarray) -> np.ndarray:
    """Maximize the mean of log(w probabilities) on the simplex, by Newton's method.

    With r = probabilities / (w probabilities), the quadratic approximation at w is least squares of
    w' r - 2, because w r = 1. The largest mean of r, minus 1, bounds the distance to the maximum.
    """

    def mean_log(weights: np.ndarray) -> float:
        return np.log(np.maximum(weights @ probabilities, SMALLEST_PROBABILITY)).mean()

    weights = np.full(len(probabilities), 1 / len(probabilities))
    found, step = mean_log(weights), 1.0
    while step > SMALLEST_STEP:
        ratios = probabilities / np.maximum(weights @ probabilities, SMALLEST_PROBABILITY)
        if ratios.mean(1).max() < 1 + LOG_GAP:
            break
        aim, step, tried = _least_squares(ratios - 2), 2.0, -np.inf
        while tried <= found and step > SMALLEST_STEP:
            step /= 2
            tried = mean_log(weights + step * (aim - weights))
        if tried > found:
            weights, found = weights + step * (aim - weights), tried
    return weights


def _least_squares(errors: np.ndarray) -> np.ndarray:
    """Minimize |w errors|^2 on the simplex.

    With w = u / sum(u), |u errors|^2 + (sum(u) - 1)^2 over u >= 0 has the same minimum in w.
    """
    triangle = np.linalg.qr(errors.T, mode="r")
    scale = np.sqrt(np.square(triangle).sum(0).min())  # the norm of the best member's errors
    if scale == 0:
        best = np.square(triangle).sum(0) == 0
        return best / best.sum()
    rows = np.vstack([triangle / scale, np.ones(len(errors))])
    solution, _ = nnls(rows, np.append(np.zeros(len(triangle)), 1.0))
    return solution / solution.sum()


def _least_absolute(errors: np.ndarray) -> np.ndarray:
    """Minimize the sum of |w errors| on the simplex, by reweighted least squares."""
    weights = _least_squares(errors)
    lowest, best = np.abs(weights @ errors).mean(), weights
    for _ in range(ABSOLUTE_STEPS):
        sizes = np.abs(weights @ errors)
        floor = ABSOLUTE_FLOOR * sizes.mean()
        if floor == 0:
            break
        weights = _least_squares(errors / np.sqrt(np.maximum(sizes, floor)))
        found = np.abs(weights @ errors).mean()
        if found > lowest * (1 - 1e-7):
            break
        lowest, best = found, weights
    return best
