"""A cache of rows of different lengths that join and leave while the others go on.

Rows end in the same column: the shorter ones are padded on the left. A row that leaves makes its
slot free; a row that joins is copied into a free slot, so that the others need not move. They move
together when slots are added or removed, and when all of them have `STEP` columns of padding.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_gpt.models import cache as caches
from mlx_gpt.models.cache import Cache, TokenBuffer


class RaggedCache(Cache):
    """The rows of a batch; models use it as any `Cache`.

    `padding` has an entry for each slot. A free slot is all padding.
    """

    def __init__(self, windows: Sequence[int]):
        super().__init__(windows)
        self.slots = 0
        self.free: list[int] = []

    def join(self, rows: Sequence[Cache]) -> list[int]:
        """Copy caches of one row each, with at least a token, into the batch; return their slots.

        Free slots are used first. The caches are not changed.
        """
        taken = self.free[: len(rows)]
        old = [i for i in range(self.slots) if i not in self.free]
        places = [*taken, *range(self.slots, self.slots + len(rows) - len(taken))]
        slots = self.slots + len(rows) - len(taken)
        length = max(each.offset for each in (*rows, *([self] if old else [])))
        pads = self.pads()
        padding = [length - self.offset + pads[i] if i in old else length for i in range(slots)]
        for place, row in zip(places, rows, strict=True):
            padding[place] = length - row.offset
        if not old:
            for layer, other in zip(self.layers, rows[0].layers, strict=True):
                layer.store_like(other)
        mine = [*self.layers, self.embeddings]
        for i, buffer in enumerate(mine):
            theirs = [[*each.layers, each.embeddings][i] for each in rows]
            if theirs[0].parts:
                _join(buffer, list(zip(places, theirs, strict=True)), bool(old), slots, length)
        self.slots, self.free = slots, self.free[len(taken) :]
        self.pad(padding)
        self._compact(range(slots), self.pads())
        return places

    def leave(self, slots: Sequence[int], keep_slots: bool = False) -> list[int]:
        """Remove rows; return the slots that remain, in their new order.

        With `keep_slots` the rows' slots become free and remain.
        """
        self.free, pads = sorted({*self.free, *slots}), self.pads()
        if keep_slots and len(self.free) < self.slots:
            self.pad([self.offset if i in self.free else pads[i] for i in range(self.slots)])
            return list(range(self.slots))
        kept = [i for i in range(self.slots) if i not in self.free]
        self.slots, self.free = len(kept), []
        if kept:
            self._compact(kept, pads)
        else:
            self._clear()
        return kept

    def row(self, slot: int, tokens: int | None = None) -> Cache | None:
        """Return a copy of a row, or of its first `tokens`; None if its windows moved on.

        Its arrays have no room for more tokens.
        """
        return first_tokens(self, tokens, slot, self.pads()[slot])

    def masks(self, tokens: int) -> "list[mx.array | str | None]":
        """Return the masks as `Cache.masks`; a free slot begins anew."""
        if self.free:
            # Otherwise its positions would grow beyond those of the model.
            pads = self.pads()
            self.pad([self.offset if i in self.free else pads[i] for i in range(self.slots)])
        return super().masks(tokens)

    def pads(self) -> list[int]:
        """Return the padding of each slot."""
        return self.padding or [0] * self.slots

    def _compact(self, slots: Sequence[int], pads: Sequence[int]) -> None:
        """Keep these slots, and drop columns that are padding in all rows if they are many."""
        least = min(pads[i] for i in slots if i not in self.free)
        if len(slots) == len(pads) and least < caches.STEP:
            return
        length = self.offset - least
        for each in self.buffers():
            _select(each, slots, length)
        self.pad([pads[i] - least for i in slots])

    def _clear(self) -> None:
        for each in self.buffers():
            each.parts, each.offset, each.begin = [], 0, 0
        self.pad(())


def first_tokens(cache: Cache, tokens: int | None, slot: int = 0, pad: int = 0) -> Cache | None:
    """Return a copy of the first `tokens` (None: all) of a row, None if its windows moved on.

    `pad` is the padding of the row, of the slot `slot`.
    """
    length = cache.offset - pad
    tokens = length if tokens is None else tokens
    copy = Cache([layer.window for layer in cache.layers])
    pairs = list(zip(copy.layers, cache.layers, strict=True))
    for new, old in [*pairs, (copy.embeddings, cache.embeddings)]:
        if not old.parts:
            continue
        first = max(old.begin - pad, 0)  # tokens of the row before those in the buffer
        if first > max(0, tokens - old.window):
            return None
        new.offset, new.begin = tokens, max(first, tokens - old.window - caches.SLACK)
        columns = slice(new.begin + pad - old.begin, tokens + pad - old.begin)
        new.parts = [mx.contiguous(part[slot : slot + 1, :, columns]) for part in old.parts]
    for new, old in pairs:
        new.store_like(old)
    return copy


def _join(
    buffer: TokenBuffer,
    joining: Sequence[tuple[int, TokenBuffer]],
    has_rows: bool,
    slots: int,
    length: int,
) -> None:
    """Copy buffers of one row into the slots of `buffer`, which all end at `length` tokens."""
    sources = [each for _, each in joining] + ([buffer] if has_rows else [])
    # In the batch's columns. What a window left behind must not look like the beginning of a text.
    moved = [each.begin + length - each.offset for each in sources if each.begin]
    begin = max(moved) if moved else min(length - each.offset for each in sources)
    held = length - begin
    if (
        not has_rows
        or (buffer.offset, buffer.begin) != (length, begin)
        or buffer.parts[0].shape[0] != slots
    ):
        room = -(-(held + 1) // caches.STEP) * caches.STEP
        old = buffer.parts if has_rows else []
        count = min(held, buffer.offset - buffer.begin)
        end = buffer.offset - buffer.begin
        fresh = [
            mx.zeros((slots, part.shape[1], room, part.shape[3]), part.dtype)
            for part in joining[0][1].parts
        ]
        for new, part in zip(fresh, old, strict=False):
            new[: part.shape[0], :, held - count : held] = part[:, :, end - count : end]
        buffer.parts, buffer.offset, buffer.begin = fresh, length, begin
    for slot, each in joining:
        count = min(held, each.offset - each.begin)
        end = each.offset - each.begin
        for new, part in zip(buffer.parts, each.parts, strict=True):
            # The whole row, so that nothing of the row before is left in it.
            if count < held:
                new[slot : slot + 1, :, : held - count] = mx.zeros((), new.dtype)
            new[slot : slot + 1, :, held - count : held] = part[:, :, end - count : end]


def _select(buffer: TokenBuffer, slots: Sequence[int], length: int) -> None:
    """Keep these slots and the last `length` columns, fewer if the window needs fewer."""
    end = buffer.offset - buffer.begin
    held = min(end, length, buffer.window + caches.SLACK)
    room, index = -(-(held + 1) // caches.STEP) * caches.STEP, mx.array(list(slots))
    parts = []
    for part in buffer.parts:
        new = mx.zeros((len(slots), part.shape[1], room, part.shape[3]), part.dtype)
        new[:, :, :held] = part[:, :, end - held : end][index]
        parts.append(new)
    buffer.parts, buffer.offset, buffer.begin = parts, length, length - held
