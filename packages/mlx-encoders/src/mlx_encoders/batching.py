"""Plan which rows share a batch: little padding, few shapes, every row exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Rows are sorted by length only within this many batches, so that batches stay random.
_BATCHES_PER_SORT = 50


@dataclass(frozen=True)
class Batch:
    """The rows `indices`, to be padded to `length`."""

    indices: np.ndarray
    length: int


def plan_batches(
    lengths: Sequence[int] | np.ndarray,
    *,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    multiple: int = 8,
    buckets: Sequence[int] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
) -> list[Batch]:
    """Return batches of at most `batch_size` rows and `max_tokens` positions, padding included.

    Give one of the two, or both. A batch is padded to its longest row, rounded up to a multiple of
    `multiple`, or to the next of `buckets` if given.

    Rows are shuffled by `seed` and `epoch`, sorted by length within groups of about 50 batches, and
    the batches are shuffled. `shuffle=False` sorts all rows, longest first: the least padding, and
    memory runs out in the first batch or in none. Raises `ValueError` for a row longer than
    `max_tokens` or the last bucket.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    padded = _padded_lengths(lengths, multiple, buckets)
    _check(lengths, padded, batch_size, max_tokens)
    if not shuffle:
        return _cut(np.argsort(-lengths, kind="stable"), padded, batch_size, max_tokens)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    if batch_size is not None:
        group = np.arange(len(order)) // (batch_size * _BATCHES_PER_SORT)
    else:
        assert max_tokens is not None
        group = np.cumsum(padded[order]) // (max_tokens * _BATCHES_PER_SORT)
    batches = []
    for some in np.split(order, np.flatnonzero(np.diff(group)) + 1):
        longest_first = some[np.argsort(-lengths[some], kind="stable")]
        batches += _cut(longest_first, padded, batch_size, max_tokens)
    return [batches[i] for i in random.permutation(len(batches))]


def padding_share(plan: Sequence[Batch], lengths: Sequence[int] | np.ndarray) -> float:
    """Return the share of padding in all positions of the planned batches, 0 for no batch."""
    lengths = np.asarray(lengths)
    positions = sum(len(batch.indices) * batch.length for batch in plan)
    tokens = sum(int(lengths[batch.indices].sum()) for batch in plan)
    return 1 - tokens / positions if positions else 0.0


def _cut(
    order: np.ndarray, padded: np.ndarray, batch_size: int | None, max_tokens: int | None
) -> list[Batch]:
    """Cut rows, sorted by length from the longest on, into batches."""
    batches = []
    while len(order):
        length = int(padded[order[0]])
        rows = len(order) if max_tokens is None else max_tokens // length
        rows = rows if batch_size is None else min(rows, batch_size)
        batches.append(Batch(order[:rows], length))
        order = order[rows:]
    return batches


def _padded_lengths(
    lengths: np.ndarray, multiple: int, buckets: Sequence[int] | None
) -> np.ndarray:
    if lengths.ndim != 1 or (len(lengths) and lengths.min() < 0):
        raise ValueError("lengths must be a list of numbers of tokens, 0 or more each")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    if buckets is None:
        return -(-np.maximum(lengths, 1) // multiple) * multiple
    sizes = np.asarray(sorted(buckets), dtype=np.int64)
    if not len(sizes) or sizes[0] < 1:
        raise ValueError(f"buckets must be positive lengths, got {list(buckets)}")
    if len(lengths) and lengths.max() > sizes[-1]:
        raise ValueError(
            f"row {lengths.argmax()} has {lengths.max()} tokens, the last bucket is {sizes[-1]}; "
            f"truncate it or add a bucket"
        )
    return sizes[np.searchsorted(sizes, lengths)]


def _check(
    lengths: np.ndarray, padded: np.ndarray, batch_size: int | None, max_tokens: int | None
) -> None:
    if batch_size is None and max_tokens is None:
        raise ValueError("give batch_size, max_tokens, or both")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if max_tokens is not None and len(lengths) and padded.max() > max_tokens:
        worst = int(padded.argmax())
        raise ValueError(
            f"max_tokens={max_tokens} has no room for row {worst} of {lengths[worst]} tokens, "
            f"padded to {padded[worst]}; truncate it or raise max_tokens"
        )
