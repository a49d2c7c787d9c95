"""Batches of examples: rows of about one length, or several examples packed into a row.

Widths come from a short list, because MLX compiles a training step anew for each shape. Every
example is used exactly once per epoch, also those of the last, incomplete update.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.data.examples import Example, Pair
from mlx_gpt.data.packing import epoch_order

Arrays = dict[str, np.ndarray]

# Examples are sorted by length only within this many updates, so that batches stay random.
_UPDATES_PER_SORT = 50
_SMALLEST_STEP = 16  # between widths


@dataclass(frozen=True)
class MicroBatch:
    """Indices of the examples of each row, and the number of inputs to which rows are padded."""

    rows: list[list[int]]
    width: int


Plan = list[list[MicroBatch]]


def width_for(length: int, longest: int) -> int:
    """Return the width of rows of `length` inputs, at most `longest`.

    Multiples of 16 up to 128, then four widths for each doubling: 160, 192, 224, 256, 320, ...
    """
    step = max(_SMALLEST_STEP, 1 << max(0, (length - 1).bit_length() - 3))
    return min(-(-length // step) * step, longest)


def plan_epoch(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    most_tokens: int,
    *,
    capacity: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
) -> Plan:
    """Return the updates of an epoch, each a list of micro-batches; equal arguments, equal plans.

    `lengths` are inputs per example, `batch_size` rows per update, `most_tokens` inputs per
    micro-batch with padding; a longer row is alone. With `capacity` examples are packed into rows
    of that many inputs, by best fit in order of length. The number of updates is the same in all
    epochs.
    """
    sizes = np.asarray(lengths, np.int64)
    order = epoch_order(len(sizes), seed, epoch) if shuffle else np.arange(len(sizes))
    longest = int(sizes.max())
    if capacity is None:
        updates = _by_length(order, sizes, batch_size)
    else:
        longest = capacity
        rows = _pack(order[np.argsort(-sizes[order], kind="stable")], sizes, capacity)
        if shuffle:
            rows = [rows[i] for i in epoch_order(len(rows), seed + 1, epoch)]
        updates = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    if shuffle:
        updates = [updates[i] for i in epoch_order(len(updates), seed + 2, epoch)]
    return [_micro_batches(update, sizes, most_tokens, longest) for update in updates]


def padding_ratio(plan: Plan, lengths: Sequence[int] | np.ndarray) -> float:
    """Return the inputs of all batches, padding included, per input of an example."""
    batches = [batch for update in plan for batch in update]
    padded = sum(len(batch.rows) * batch.width for batch in batches)
    real = sum(int(lengths[i]) for batch in batches for row in batch.rows for i in row)
    return padded / real


def example_arrays(examples: Sequence[Example], batch: MicroBatch, pad_id: int) -> Arrays:
    """Return `inputs` (B, T), `targets` and, if rows are packed, `segments` (B, T); all int32.

    A target is `IGNORE` where nothing is learned. If few tokens are targets, `targets` (B, n) has
    only those at the `positions` (B, n). Segments count the examples of a row from 1; padding is 0.
    """
    shape = len(batch.rows), batch.width
    inputs, targets = np.full(shape, pad_id, np.int32), np.full(shape, IGNORE, np.int32)
    segments = np.zeros(shape, np.int32)
    for row, indices in enumerate(batch.rows):
        begin = 0
        for number, index in enumerate(indices, 1):
            ids, trained = examples[index].ids, examples[index].trained
            place = slice(begin, begin + len(ids) - 1)
            inputs[row, place] = ids[:-1]
            targets[row, place] = np.where(trained[1:], ids[1:], IGNORE)
            segments[row, place] = number
            begin = place.stop
    arrays = {"inputs": inputs} | _chosen(targets)
    return arrays | ({"segments": segments} if any(len(row) > 1 for row in batch.rows) else {})


def pair_arrays(pairs: Sequence[Pair], batch: MicroBatch, pad_id: int) -> Arrays:
    """Return `inputs` and `targets` (B, 2, T), int32: first the chosen, then the rejected answer.

    `pairs` (B,) has the index of each pair.
    """
    sides = [
        side for (index,) in batch.rows for side in (pairs[index].chosen, pairs[index].rejected)
    ]
    both = MicroBatch([[i] for i in range(len(sides))], batch.width)
    arrays = example_arrays(sides, both, pad_id)
    paired = {name: each.reshape(-1, 2, each.shape[-1]) for name, each in arrays.items()}
    return paired | {"pairs": np.array([index for (index,) in batch.rows], np.int32)}


class EpochBatches:
    """The updates of endless epochs, each a list of batches; call `next_update`.

    `lengths` and the other arguments are those of `plan_epoch`; `arrays_of` makes the arrays of a
    micro-batch. The position is `epoch` and `update`, both from 0; `tokens` are the inputs of the
    last update, without padding.
    """

    tokens = 0

    def __init__(
        self,
        lengths: Sequence[int],
        arrays_of: Callable[[MicroBatch], Arrays],
        batch_size: int,
        most_tokens: int,
        *,
        capacity: int | None = None,
        seed: int = 0,
    ):
        self._lengths, self._arrays_of = lengths, arrays_of
        self._sizes = batch_size, most_tokens
        self._options = {"capacity": capacity, "seed": seed}
        self._go_to(0, 0)

    @property
    def per_epoch(self) -> int:
        """Updates in each epoch."""
        return len(self.plan)

    def next_update(self) -> list[Arrays]:
        """Return the batches of the next update."""
        if self.update == len(self.plan):
            self._go_to(self.epoch + 1, 0)
        batches = self.plan[self.update]
        self.tokens = sum(self._lengths[i] for each in batches for row in each.rows for i in row)
        self.update += 1
        return [self._arrays_of(each) for each in batches]

    def state(self) -> dict[str, int]:
        """Return the position, for `load_state`; serializable as JSON."""
        return {"epoch": self.epoch, "update": self.update, "examples": len(self._lengths)}

    def load_state(self, state: dict[str, int]) -> None:
        """Continue at a position; raises `ValueError` if the number of examples has changed."""
        if state["examples"] != len(self._lengths):
            raise ValueError(
                f"the data had {state['examples']:,} usable rows when the run was stopped, now "
                f"they are {len(self._lengths):,}; resume with the same files"
            )
        self._go_to(state["epoch"], state["update"])

    def _go_to(self, epoch: int, update: int) -> None:
        self.epoch, self.update = epoch, update
        self.plan = plan_epoch(self._lengths, *self._sizes, epoch=epoch, **self._options)


def _by_length(order: np.ndarray, sizes: np.ndarray, batch_size: int) -> list[list[list[int]]]:
    updates = []
    for some in _cut(order, batch_size * _UPDATES_PER_SORT):
        by_length = some[np.argsort(-sizes[some], kind="stable")]
        updates += [[[int(i)] for i in each] for each in _cut(by_length, batch_size)]
    return updates


def _pack(order: np.ndarray, sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Put each example, in this order, into the fullest row that has room for it."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # room and index of the rows that are not full, sorted
    for index in map(int, order):
        size = int(sizes[index])
        place = bisect_left(rooms, (size, 0))
        room, row = rooms.pop(place) if place < len(rooms) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        if room > size:
            insort(rooms, (room - size, row))
    return rows


def _micro_batches(
    rows: list[list[int]], sizes: np.ndarray, most_tokens: int, longest: int
) -> list[MicroBatch]:
    """Cut the rows of an update, the longest first, into batches of at most `most_tokens`."""
    lengths = [int(sizes[row].sum()) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    batches = []
    while order:
        width = width_for(lengths[order[0]], longest)
        count = max(1, most_tokens // width)
        batches.append(MicroBatch([rows[i] for i in order[:count]], width))
        order = order[count:]
    return batches


def _chosen(targets: np.ndarray) -> Arrays:
    """Return `targets`, or those that are not `IGNORE` with their `positions`, padded.

    To a quarter or a half of the width: more sizes would save products of the head, but the time to
    compile a training step for each costs more.
    """
    is_target = targets != IGNORE
    width = targets.shape[1]
    most = int(is_target.sum(1).max())
    count = next((each for each in (width // 4, width // 2) if each >= most), None)
    if count is None:
        return {"targets": targets}
    # The targets of a row come first, in their order.
    positions = np.argsort(~is_target, axis=1, kind="stable")[:, :count].astype(np.int32)
    return {"targets": np.take_along_axis(targets, positions, axis=1), "positions": positions}


def _cut(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[begin : begin + size] for begin in range(0, len(values), size)]
