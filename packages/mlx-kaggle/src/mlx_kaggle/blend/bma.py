"""Pseudo-BMA+ weights (Yao, Vehtari, Simpson and Gelman 2018, section 3.4)."""

import numpy as np
from scipy.special import softmax

from mlx_kaggle.blend.loss import SMALLEST_PROBABILITY, Loss

DRAWS, CHUNK = 500, 50


def bma_weights(reduced: np.ndarray, loss: Loss, rng: np.random.Generator) -> np.ndarray:
    """Return weights (M,) for `Loss.reduce` of M members (M, N, J).

    The weight is exp(sum of the log densities of the rows), normalized, and averaged over the
    Bayesian bootstrap: 500 Dirichlet(1, ..., 1) draws of the weights of the rows.
    """
    densities = log_densities(reduced, loss)  # (M, N)
    rows = densities.shape[1]
    weights = np.zeros(len(densities))
    for _ in range(DRAWS // CHUNK):
        shares = rng.standard_exponential((CHUNK, rows), dtype=np.float32)
        means = shares @ densities.T / shares.sum(1, keepdims=True)
        weights += softmax(rows * means, axis=1).sum(0)
    return weights / weights.sum()


def log_densities(reduced: np.ndarray, loss: Loss) -> np.ndarray:
    """Return the log density of each row (M, N): log probabilities, or of Gaussian errors.

    The errors of each member and target have their own root mean square.
    """
    if loss.kind in ("log", "labels"):
        return np.log(np.maximum(reduced, SMALLEST_PROBABILITY)).sum(2)
    squares = np.square(reduced)
    variance = squares.mean(1, keepdims=True)
    variance = np.maximum(variance, 1e-12 * variance.max() + 1e-300)
    return -0.5 * (np.log(2 * np.pi * variance) + squares / variance).sum(2)
