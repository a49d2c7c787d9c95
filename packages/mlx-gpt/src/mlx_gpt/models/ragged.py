"""A cache of rows of different lengths that join and leave while the others go on.

Rows end in the same column: the shorter ones are padded on the left. A row that joins is copied
behind the others, where buffers have room for some more rows; the last row takes the place of one
that leaves. So the others move only when the buffers are full, or when all of them have `STEP`
columns of padding. A single row has none.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_gpt.models import cache as caches
from mlx_gpt.models.cache import Cache, TokenBuffer, row_capacity


class RaggedCache(Cache):
    """The rows of a batch; models use it as any `Cache`."""

    def __init__(self, windows: Sequence[int]):
        super().__init__(windows)
        self.rows = 0

    def join(self, rows: Sequence[Cache]) -> None:
        """Copy caches of one row each, with at least a token, behind the rows of the batch."""
        length = max(each.offset for each in (*rows, *([self] if self.rows else [])))
        padding = [length - self.offset + pad for pad in self.pads()]
        padding += [length - each.offset for each in rows]
        if not self.rows:
            for layer, other in zip(self.layers, rows[0].layers, strict=True):
                layer.store_like(other)
        for i, buffer in enumerate([*self.layers, self.embeddings]):
            theirs = [[*each.layers, each.embeddings][i] for each in rows]
            if theirs[0].parts:
                _join(buffer, theirs, self.rows, length)
        self.rows += len(rows)
        self.pad(padding)
        self._drop_padding()

    def leave(self, gone: Sequence[int]) -> list[int]:
        """Remove rows; return which remain, in their new order."""
        kept = [row for row in range(self.rows) if row not in gone]
        order, last = list(range(len(kept))), [row for row in kept if row >= len(kept)]
        for hole in order:
            if hole in gone:
                order[hole] = last.pop()
                for each in self.buffers():
                    for part in each.parts:
                        part[hole : hole + 1] = part[order[hole] : order[hole] + 1]
        pads, self.rows = self.pads(), len(kept)
        if kept:
            self.pad([pads[row] for row in order])
            self._drop_padding()
        else:
            for each in self.buffers():
                each.parts, each.offset, each.begin = [], 0, 0
            self.pad(())
        return order

    def row(self, row: int, tokens: int | None = None) -> Cache | None:
        """Return a copy of a row, or of its first `tokens`; None if its windows moved on.

        Its arrays have no room for more tokens.
        """
        return first_tokens(self, tokens, row, self.pads()[row])

    def pads(self) -> list[int]:
        """Return the padding of each row."""
        return self.padding or [0] * self.rows

    def _drop_padding(self) -> None:
        """Drop the columns that are padding in all rows, if they are many or of the only row."""
        pads = self.pads()
        if (least := min(pads)) >= caches.STEP or (least and self.rows == 1):
            length = self.offset - least
            for each in self.buffers():
                _shorten(each, self.rows, length)
            self.pad([pad - least for pad in pads])


def first_tokens(cache: Cache, tokens: int | None, row: int = 0, pad: int = 0) -> Cache | None:
    """Return a copy of the first `tokens` (None: all) of a row, None if its windows moved on.

    `pad` is the padding of the row.
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
        new.parts = [mx.contiguous(part[row : row + 1, :, columns]) for part in old.parts]
    for new, old in pairs:
        new.store_like(old)
    return copy


def _join(buffer: TokenBuffer, joining: Sequence[TokenBuffer], rows: int, length: int) -> None:
    """Copy buffers of one row behind the `rows` of `buffer`; then all end at `length` tokens."""
    sources, total = [*joining, *([buffer] if rows else [])], rows + len(joining)
    # In the batch's columns. What a window left behind must not look like the beginning of a text.
    moved = [each.begin + length - each.offset for each in sources if each.begin]
    begin = max(moved) if moved else min(length - each.offset for each in sources)
    held = length - begin
    is_moved = (buffer.offset, buffer.begin) != (length, begin)
    if not rows or is_moved or buffer.parts[0].shape[0] < total:
        old, end = buffer.parts if rows else [], buffer.offset - buffer.begin
        count = min(held, end)
        buffer.parts = [_zeros(part, total, held) for part in joining[0].parts]
        for new, part in zip(buffer.parts, old, strict=False):
            new[:rows, :, held - count : held] = part[:rows, :, end - count : end]
        buffer.offset, buffer.begin = length, begin
    for row, each in enumerate(joining, rows):
        end = each.offset - each.begin
        count = min(held, end)
        for new, part in zip(buffer.parts, each.parts, strict=True):
            # The whole row, so that nothing of the row before is left in it.
            if count < held:
                new[row : row + 1, :, : held - count] = mx.zeros((), new.dtype)
            new[row : row + 1, :, held - count : held] = part[:, :, end - count : end]


def _shorten(buffer: TokenBuffer, rows: int, length: int) -> None:
    """Keep the last `length` columns, fewer if the window needs fewer."""
    end = buffer.offset - buffer.begin
    held = min(end, length, buffer.window + caches.SLACK)
    new = [_zeros(part, rows, held) for part in buffer.parts]
    for part, old in zip(new, buffer.parts, strict=True):
        part[:rows, :, :held] = old[:rows, :, end - held : end]
    buffer.parts, buffer.offset, buffer.begin = new, length, length - held


def _zeros(like: mx.array, rows: int, held: int) -> mx.array:
    """Return a buffer with room for rows, and for some tokens more than those held."""
    room = -(-(held + 1) // caches.STEP) * caches.STEP
    return mx.zeros((row_capacity(rows), like.shape[1], room, like.shape[3]), like.dtype)
