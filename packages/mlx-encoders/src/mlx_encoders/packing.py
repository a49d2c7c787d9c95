"""Pack several rows into one sequence instead of padding each, and pool them apart again.

With `segment_ids` tokens attend only within their row, and with `position_ids` each row starts at
0, so results equal those of padded rows.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class PackedBatch:
    """Sequences (B, L) that hold R rows; all but `rows` and `places` are inputs of an encoder."""

    input_ids: np.ndarray
    """(B, L) int32."""
    attention_mask: np.ndarray
    """(B, L) bool, False for the padding at the end of a sequence."""
    position_ids: np.ndarray
    """(B, L) int32, from 0 in each row."""
    segment_ids: np.ndarray
    """(B, L) int32: 1, 2, ... for the rows of a sequence, 0 for padding."""
    token_type_ids: np.ndarray | None
    """(B, L) int32, if given to `pack`."""
    rows: np.ndarray
    """(R,) index of each packed row in the list given to `pack`, ascending."""
    places: np.ndarray
    """(R, W) int32: where the tokens of each row are in the B * L positions; -1 after its end."""

    def inputs(self) -> dict[str, Any]:
        """Return the keyword arguments of an encoder."""
        names = ("input_ids", "attention_mask", "position_ids", "segment_ids", "token_type_ids")
        found = {name: getattr(self, name) for name in names}
        return {name: array for name, array in found.items() if array is not None}


def pack(
    ids: Sequence[Sequence[int]],
    length: int,
    pad_token_id: int = 0,
    multiple: int = 8,
    batch_size: int | None = None,
    token_type_ids: Sequence[Sequence[int]] | None = None,
) -> list[PackedBatch]:
    """Pack rows into sequences of at most `length` tokens, `batch_size` of them a batch.

    Rows go, longest first, to the sequence with the least room that suffices (best-fit decreasing).
    `batch_size` None is one batch. L is the fullest sequence of a batch, and W its longest row,
    both rounded up to a multiple of `multiple`.

    Attention costs grow with `length`, so the length of the longest row is a good choice. Of 2,000
    news texts of 12 to 128 tokens, packed to 128, 3 % of the positions are padding: 11 % in batches
    by length, 56 % in random ones. But packing takes twice the attention scores of the former.

    Raises `ValueError` for an empty row and one longer than `length`.
    """
    sizes = [len(row) for row in ids]
    _check(sizes, length, multiple, batch_size, token_type_ids)
    sequences = _assign(sizes, length)
    step = batch_size or max(1, len(sequences))
    return [
        _fill(sequences[start : start + step], ids, token_type_ids, length, pad_token_id, multiple)
        for start in range(0, len(sequences), step)
    ]


def unpack(hidden: mx.array, packed: PackedBatch | mx.array) -> tuple[mx.array, mx.array]:
    """Return hidden states (B, L, D) of packed rows as padded rows (R, W, D), and their mask.

    The order is that of `packed.rows`. In a compiled function give `packed.places` as an array,
    because NumPy arrays would become constants.
    """
    places = mx.array(packed.places) if isinstance(packed, PackedBatch) else packed
    valid = places >= 0
    rows = hidden.reshape(-1, hidden.shape[-1])[mx.maximum(places, 0)]
    return rows, valid


def pool_segments(
    hidden: mx.array,
    packed: PackedBatch | mx.array,
    pooling: Literal["mean", "cls", "max"] = "mean",
) -> mx.array:
    """Return one float32 vector for each packed row (R, D), in the order of `packed.rows`.

    From hidden states (B, L, D); see `unpack` for compiled functions. "cls" is the first token.
    """
    if pooling not in ("mean", "cls", "max"):
        raise ValueError(f"pooling must be 'mean', 'cls' or 'max', got {pooling!r}")
    rows, valid = unpack(hidden.astype(mx.float32), packed)
    if pooling == "cls":
        return rows[:, 0]
    valid = valid[..., None]
    if pooling == "max":
        return mx.where(valid, rows, -mx.inf).max(axis=1)
    return mx.where(valid, rows, 0).sum(axis=1) / valid.sum(axis=1)


def _assign(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return the indices of the rows of each sequence."""
    sequences: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # ascending (room, sequence)
    for row in np.argsort(-np.asarray(sizes, dtype=np.int64), kind="stable").tolist():
        at = bisect_left(rooms, (sizes[row], -1))
        if at == len(rooms):
            sequences.append([])
            room, sequence = length, len(sequences) - 1
        else:
            room, sequence = rooms.pop(at)
        sequences[sequence].append(row)
        if room > sizes[row]:
            insort(rooms, (room - sizes[row], sequence))
    return sequences


def _fill(
    sequences: Sequence[Sequence[int]],
    ids: Sequence[Sequence[int]],
    token_type_ids: Sequence[Sequence[int]] | None,
    length: int,
    pad_token_id: int,
    multiple: int,
) -> PackedBatch:
    longest = max(sum(len(ids[row]) for row in rows) for rows in sequences)
    shape = (len(sequences), min(length, -(-longest // multiple) * multiple))
    input_ids = np.full(shape, pad_token_id, dtype=np.int32)
    position_ids, segment_ids, types = (np.zeros(shape, dtype=np.int32) for _ in range(3))
    places = {}
    for b, rows in enumerate(sequences):
        start = 0
        for segment, row in enumerate(rows, start=1):
            end = start + len(ids[row])
            input_ids[b, start:end] = ids[row]
            position_ids[b, start:end] = np.arange(end - start)
            segment_ids[b, start:end] = segment
            if token_type_ids is not None:
                types[b, start:end] = token_type_ids[row]
            places[row] = np.arange(start, end) + b * shape[1]
            start = end
    rows = sorted(places)
    width = -(-max(len(places[row]) for row in rows) // multiple) * multiple
    where = np.full((len(rows), width), -1, dtype=np.int32)
    for r, row in enumerate(rows):
        where[r, : len(places[row])] = places[row]
    return PackedBatch(
        input_ids,
        segment_ids > 0,
        position_ids,
        segment_ids,
        None if token_type_ids is None else types,
        np.array(rows, dtype=np.int64),
        where,
    )


def _check(
    sizes: Sequence[int],
    length: int,
    multiple: int,
    batch_size: int | None,
    token_type_ids: Sequence[Sequence[int]] | None,
) -> None:
    if min(length, multiple, batch_size or 1) < 1 or batch_size == 0:
        raise ValueError(
            f"length, multiple and batch_size must be at least 1, "
            f"got {length}, {multiple} and {batch_size}"
        )
    for row, size in enumerate(sizes):
        if size == 0:
            raise ValueError(f"row {row} has no tokens; leave it out, or encode special tokens")
        if size > length:
            raise ValueError(
                f"row {row} has {size} tokens, more than length={length}; truncate it or raise "
                f"length"
            )
    if token_type_ids is not None and [len(row) for row in token_type_ids] != list(sizes):
        raise ValueError("token_type_ids must have a value for each id of each row")
