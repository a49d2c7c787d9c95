"""Greedy selection with replacement (Caruana et al. 2004), averaged over bags of rows."""

import numpy as np

from mlx_kaggle.blend.loss import Loss

ROUNDS = 100
# The selection overfits on few rows: below 2,000 rows it is the mean of ten resamples.
BAGS, BAGGED_ROWS = 10, 2_000
# A larger ensemble must lower the loss by more than this fraction.
GAIN = 1e-9


def greedy_weights(reduced: np.ndarray, loss: Loss, rng: np.random.Generator) -> np.ndarray:
    """Return weights (M,) for `Loss.reduce` of M members (M, N, J)."""
    rows = reduced.shape[1]
    if rows >= BAGGED_ROWS:
        return select(reduced[:, None], loss)[:, 0]
    return select(reduced[:, rng.integers(rows, size=(BAGS, rows))], loss).mean(1)


def select(reduced: np.ndarray, loss: Loss) -> np.ndarray:
    """Return the shares (M, B) of the members in the best ensemble of each of B bags (M, B, N, J).

    The start is the best of: the best member, the best two, and so on. Each round adds the member,
    again if need be, with which the mean has the lowest loss. The smallest of equal ensembles wins.
    """
    members, bags = reduced.shape[:2]
    bag = np.arange(bags)
    order = np.argsort(loss.mean(reduced), axis=0, kind="stable")
    totals = np.cumsum(reduced[order, bag], axis=0)
    losses = loss.mean(totals / np.arange(1, members + 1)[:, None, None, None])
    lowest = losses.min(0)
    start = np.argmax(losses <= lowest + GAIN * abs(lowest), axis=0)
    counts = (np.argsort(order, axis=0) <= start).astype(int)
    total, lowest, best = totals[start, bag], losses[start, bag], counts
    for round_ in range(ROUNDS):
        losses = loss.mean((total + reduced) / (start + 2 + round_)[:, None, None])
        added = np.argmin(losses, axis=0)
        total += reduced[added, bag]
        counts = counts + (np.arange(members)[:, None] == added)
        better = losses[added, bag] < lowest - GAIN * abs(lowest)
        lowest = np.where(better, losses[added, bag], lowest)
        best = np.where(better, counts, best)
    return best / best.sum(0)
