"""Rows to hold out for early stopping."""

import numpy as np


def hold_out(rows: int, fraction: float, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Return a mask (rows,) of `fraction` of the rows, rounded down, and of each class alike.

    At least one row of each class is not held out.
    """
    order = np.random.default_rng(seed).permutation(rows)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # Every 1 / fraction-th row, of rows that are sorted by their class.
    steps = np.floor(np.arange(rows + 1) * fraction + 1e-9)
    held = np.zeros(rows, bool)
    held[order] = np.diff(steps) > 0
    if labels is not None:
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            if held[members].all():
                held[members[0]] = False
    return held
