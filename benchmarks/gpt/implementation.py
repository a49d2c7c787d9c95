"""What each implementation, `ours` and the `peer_*` modules, offers to the worker as functions.

- `start(settings, part, variant, threads)`, once, before anything else
- `training(settings, variant, seed)` returns a `Training`
- `generation(settings, size)` returns a `Generate`
- `update()` returns two calls: a whole "step", and the "optimizer" alone
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Training:
    """A run of training; both functions read rows (B, T + 1) and return their mean loss."""

    step: Callable[[np.ndarray], float]
    held_out_loss: Callable[[np.ndarray], float]
    parameters: int


# From a prompt and the most tokens to generate to one item for each token, greedily drawn.
Generate = Callable[[list[int], int], Iterator[object]]
