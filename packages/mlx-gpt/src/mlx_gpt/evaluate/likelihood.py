"""The likelihood of continuations given their contexts, computed in batches.

Rows are padded on the right, which a causal model does not see, to one of a few lengths. Only the
states that predict tokens of a continuation go through the head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.models.formats import Decoder
from mlx_gpt.training.losses import head_losses

LENGTH_STEP = 64  # lengths of batches are multiples of this


@dataclass(frozen=True)
class Continuation:
    """Token ids of a context and its continuation, which begins at `start`; neither is empty."""

    ids: Sequence[int]
    start: int

    def __post_init__(self):
        if not 0 < self.start < len(self.ids):
            raise ValueError(
                f"a continuation must start in 1 to {len(self.ids) - 1}, got {self.start}"
            )


def mean_losses(model: Decoder, rows: Sequence[Continuation], batch_size: int) -> np.ndarray:
    """Return the mean loss of each continuation's tokens in nats, float64 (rows,)."""
    means = np.zeros(len(rows))
    for numbers, states, targets, begins in _states(model, rows, batch_size):
        losses = head_losses(model, states, mx.array(targets))
        sums = np.add.reduceat(np.array(losses, np.float64), begins)
        means[numbers] = sums / np.diff(begins, append=len(targets))
    return means


def are_greedy(model: Decoder, rows: Sequence[Continuation], batch_size: int) -> np.ndarray:
    """Return whether greedy decoding yields each continuation, bool (rows,)."""
    found = np.zeros(len(rows), bool)
    for numbers, states, targets, begins in _states(model, rows, batch_size):
        best = np.array(mx.argmax(model.logits(states), axis=-1))
        found[numbers] = np.logical_and.reduceat(best == targets, begins)
    return found


def padded_batches(
    rows: Sequence[Sequence[int] | np.ndarray], batch_size: int, max_length: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield the indices of rows of similar lengths, and their ids (rows, T) padded on the right.

    Rows must not be longer than `max_length`; neither are batches.
    """
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    for begin in range(0, len(order), batch_size):
        numbers = order[begin : begin + batch_size]
        length = len(rows[numbers[-1]])
        ids = np.zeros(
            (len(numbers), min(-(-length // LENGTH_STEP) * LENGTH_STEP, max_length)), int
        )
        for row, number in enumerate(numbers):
            ids[row, : len(rows[number])] = rows[number]
        yield numbers, ids.astype(np.int32)


def _states(
    model: Decoder, rows: Sequence[Continuation], batch_size: int
) -> Iterator[tuple[list[int], mx.array, np.ndarray, np.ndarray]]:
    """Yield indices of rows, the states (N, D) that predict the tokens of their continuations,
    these tokens (N,), and the index of each row's first one.
    """
    max_length = model.config.sequence_len
    for numbers, ids in padded_batches([row.ids for row in rows], batch_size, max_length):
        chosen = [rows[number] for number in numbers]
        spans = [(row.start, len(row.ids)) for row in chosen]
        # The state at t - 1 predicts token t.
        places = [
            number * ids.shape[1] + token - 1
            for number, (start, end) in enumerate(spans)
            for token in range(start, end)
        ]
        hidden = model.hidden_states(mx.array(ids))
        states = hidden.reshape(-1, hidden.shape[-1])[mx.array(places)]
        targets = np.concatenate([np.array(row.ids[row.start :]) for row in chosen])
        begins = np.cumsum([0] + [end - start for start, end in spans[:-1]])
        yield numbers, states, targets, begins
