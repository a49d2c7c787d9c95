"""Plan which examples share a batch: little padding, few shapes, every example exactly once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256)

# Examples are sorted by length only within this many updates, so that batches stay random.
_UPDATES_PER_SORT = 50


@dataclass(frozen=True)
class PlannedBatch:
    """One micro-batch: pad `indices` to `rows` rows (of weight 0) and all rows to `length`."""

    indices: np.ndarray
    rows: int
    length: int


Plan = list[list[PlannedBatch]]


def plan_batches(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int = 32,
    buckets: Sequence[int] = BUCKETS,
    max_tokens: int = 4096,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> Plan:
    """Return the updates of one epoch, each a list of micro-batches; the plan is deterministic.

    An epoch has ceil(n / batch_size) updates for any lengths. Examples are shuffled, sorted by
    length within groups of 50 * batch_size, cut into updates, and the updates are shuffled;
    `shuffle=False` only sorts. A bucket has one fixed number of rows, such that rows * length <=
    `max_tokens` in one process, so each bucket has at most one shape.

    With `world_size` processes each gets its share of the same updates, and the same number and
    shapes of micro-batches; a share may be empty. Raises `ValueError` for a length above the last
    bucket, and if `max_tokens` is less than one row.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    sizes = np.asarray(sorted(buckets), dtype=np.int64)
    _check(lengths, batch_size, sizes, rank, world_size)
    bucket_of = sizes[np.searchsorted(sizes, lengths)]
    _check_room(bucket_of, max_tokens)

    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths)) if shuffle else np.arange(len(lengths))
    updates = []
    for some in _cut(order, batch_size * _UPDATES_PER_SORT):
        by_length = some[np.argsort(lengths[some], kind="stable")]
        updates += _cut(by_length, batch_size)
    if shuffle:
        updates = [updates[i] for i in random.permutation(len(updates))]

    share = -(-batch_size // world_size)
    rows_of = {int(size): _rows(share, max_tokens // int(size)) for size in np.unique(bucket_of)}
    return [
        [
            PlannedBatch(indices[rank::world_size], rows_of[length], length)
            for indices, length in _micro_batches(update, bucket_of, rows_of, world_size)
        ]
        for update in updates
    ]


def padding_ratio(plan: Plan, lengths: Sequence[int] | np.ndarray) -> float:
    """Return the share of padding in the positions of all planned batches."""
    lengths = np.asarray(lengths)
    batches = [batch for update in plan for batch in update]
    positions = sum(batch.rows * batch.length for batch in batches)
    tokens = sum(int(lengths[batch.indices].sum()) for batch in batches)
    return 1 - tokens / positions if positions else 0.0


def _micro_batches(
    update: np.ndarray, bucket_of: np.ndarray, rows_of: dict[int, int], world_size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Cut an update, sorted by length, from the longest example on; yield pieces and buckets."""
    while len(update):
        length = int(bucket_of[update[-1]])
        taken = rows_of[length] * world_size
        yield update[-taken:], length
        update = update[:-taken]


def _rows(share: int, most: int) -> int:
    """Return the rows of each of the equal micro-batches of `share` examples, at most `most`."""
    pieces = -(-share // min(share, most))
    return -(-share // pieces)


def _cut(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _check(
    lengths: np.ndarray, batch_size: int, sizes: np.ndarray, rank: int, world_size: int
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be between 0 and world_size - 1, got {rank} of {world_size}")
    if not len(sizes) or sizes[0] < 1:
        raise ValueError(f"buckets must be positive lengths, got {sizes.tolist()}")
    if lengths.ndim != 1 or (len(lengths) and lengths.min() < 0):
        raise ValueError("lengths must be a list of numbers of tokens, 0 or more each")
    if len(lengths) and lengths.max() > sizes[-1]:
        worst = int(lengths.argmax())
        raise ValueError(
            f"example {worst} has length {lengths[worst]}, the last bucket is {sizes[-1]}; "
            "truncate it or add a bucket"
        )


def _check_room(bucket_of: np.ndarray, max_tokens: int) -> None:
    if len(bucket_of) and bucket_of.max() > max_tokens:
        raise ValueError(
            f"max_tokens={max_tokens} has no room for one row of the bucket {bucket_of.max()}"
        )
