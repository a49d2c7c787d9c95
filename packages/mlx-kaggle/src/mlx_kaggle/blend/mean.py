"""Equal weights, for all members or for the better half of them."""

import numpy as np

from mlx_kaggle.blend.loss import Loss


def mean_weights(reduced: np.ndarray, loss: Loss, rng: np.random.Generator) -> np.ndarray:
    """Return weights (M,) for `Loss.reduce` of M members (M, N, J): whichever mean is better.

    Of an odd number, the better half has the member in the middle. A mean has two at least.
    """
    members = len(reduced)
    half = np.argsort(loss.mean(reduced), kind="stable")[: max(2, (members + 1) // 2)]
    halved = np.bincount(half, minlength=members) / len(half)
    variants = [equal_weights(reduced, loss, rng), halved]
    losses = loss.mean(np.tensordot(np.stack(variants), reduced, 1))
    return variants[int(np.argmin(losses))]


def equal_weights(reduced: np.ndarray, loss: Loss, rng: np.random.Generator) -> np.ndarray:
    """Return the same weight for every member."""
    return np.full(len(reduced), 1 / len(reduced))
