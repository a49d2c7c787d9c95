"""The order of the rows, shared by all variants."""

import numpy as np

BATCH = 32


def order(count: int, epoch: int) -> list[np.ndarray]:
    """Return the rows of each update of an epoch."""
    shuffled = np.random.default_rng([5, epoch]).permutation(count)
    return [shuffled[i : i + BATCH] for i in range(0, count, BATCH)]
