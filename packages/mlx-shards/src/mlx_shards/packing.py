"""Pack documents into rows of one length.

`BestFit` is nanochat's rule: the largest buffered document that fits into the rest of a row is
placed next; if none fits, the shortest is cropped and its rest lost. Rows have no padding and begin
with a BOS token. nanochat scans all buffered documents for each placement; here they are indexed by
length, with equal results (ties go to the document that came first).
`Flat` cuts the concatenated documents and loses nothing. `Pad` gives each document its own row.
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

# A buffer with this many tokens is full: nanochat's 1,000 documents have a third of this.
BUFFER_TOKENS = 2**22


class Reference(NamedTuple):
    """The location of a piece's tokens, to reread them.

    `source`, `shard` and `document` are indices; `start` is the first token of the piece.
    """

    source: int
    shard: int
    document: int
    start: int = 0


class Piece(NamedTuple):
    """A document, or the part of one from token `reference.start` on."""

    reference: Reference
    tokens: np.ndarray  # (length,) int32

    def rest(self, used: int) -> "Piece":
        """Return the piece without its first `used` tokens."""
        reference = self.reference
        return Piece(reference._replace(start=reference.start + used), self.tokens[used:])


class Packer:
    """Fills rows from documents, and buffers pieces between rows; this class uses a queue.

    `lost` counts tokens that were cropped or dropped. A packer can be restored from references to
    the buffered pieces.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._queue: deque[Piece] = deque()

    def fill(self, row: np.ndarray, ids: np.ndarray, documents: Iterator[Piece]) -> int:
        """Write tokens into `row` and document numbers from 1 into `ids`, both (capacity,).

        Return the number of tokens written: the capacity unless padding follows, and 0 at the end
        of the documents.
        """
        raise NotImplementedError

    def held(self) -> tuple[Reference, ...]:
        """Return references to the buffered pieces, in order."""
        return tuple(piece.reference for piece in self._queue)

    def held_tokens(self) -> int:
        """Return the number of tokens in the buffered pieces."""
        return sum(len(piece.tokens) for piece in self._queue)

    def restore(self, pieces: Iterable[Piece]) -> None:
        """Buffer the reread pieces of an earlier `held()`."""
        self._queue.extend(pieces)


class BestFit(Packer):
    """nanochat's rule with a buffer of at least `buffer_size` documents, refilled 128 at a time.

    With `BUFFER_TOKENS` tokens it is full earlier. `oversize` is for documents longer than a row:
    `crop` buffers them whole, as nanochat does, and crops them when nothing shorter is left;
    `split` cuts them to the length of a row, and the rest of a cropped piece starts a later row, so
    that nothing is lost; `drop` skips them.
    """

    def __init__(self, capacity: int, oversize: str = "crop", buffer_size: int = 1000):
        super().__init__()
        self._capacity = capacity
        self._oversize = oversize
        self._buffer_size = buffer_size
        self._refill = 128  # nanochat's
        self._lengths: list[int] = []  # sorted, unique
        self._by_length: dict[int, deque[tuple[int, Piece]]] = {}
        self._references: dict[int, Reference] = {}  # by order of arrival
        self._arrivals = 0
        self._tokens = 0

    def fill(self, row: np.ndarray, ids: np.ndarray, documents: Iterator[Piece]) -> int:
        """See `Packer`."""
        used = count = 0
        while used < len(row):
            if not self._is_full():
                self._fill_buffer(documents)
            if not self._lengths:
                break
            room = len(row) - used
            fitting = bisect_right(self._lengths, room)
            # The longest that fits; else crop the shortest of all.
            piece = self._pop(self._lengths[max(fitting - 1, 0)])
            placed = piece.tokens[:room]
            if len(placed) < len(piece.tokens):
                if self._oversize == "split":
                    self._add(piece.rest(len(placed)))
                else:
                    self.lost += len(piece.tokens) - len(placed)
            count += 1
            used = _write(placed, row, ids, used, count)
        return used

    def held(self) -> tuple[Reference, ...]:
        """See `Packer`."""
        return tuple(self._references.values())

    def held_tokens(self) -> int:
        """See `Packer`."""
        return self._tokens

    def restore(self, pieces: Iterable[Piece]) -> None:
        """See `Packer`."""
        for piece in pieces:
            split = self._oversize == "split"
            # A piece ends where `_admit` cut it, even if its beginning was used before.
            end = self._capacity - piece.reference.start % self._capacity if split else None
            self._add(Piece(piece.reference, piece.tokens[:end]))

    def _is_full(self) -> bool:
        return len(self._references) >= self._buffer_size or self._tokens >= BUFFER_TOKENS

    def _fill_buffer(self, documents: Iterator[Piece]) -> None:
        while not self._is_full():
            taken = 0
            for piece in islice(documents, self._refill):
                taken += 1
                self._admit(piece)
                if self._tokens >= BUFFER_TOKENS:
                    return
            if taken < self._refill:
                return

    def _admit(self, piece: Piece) -> None:
        if self._oversize == "crop" or len(piece.tokens) <= self._capacity:
            self._add(piece)
        elif self._oversize == "drop":
            self.lost += len(piece.tokens)
        else:
            for start in range(0, len(piece.tokens), self._capacity):
                rest = piece.rest(start)
                self._add(Piece(rest.reference, rest.tokens[: self._capacity]))

    def _add(self, piece: Piece) -> None:
        length = len(piece.tokens)
        waiting = self._by_length.get(length)
        if waiting is None:
            insort(self._lengths, length)
            waiting = self._by_length[length] = deque()
        waiting.append((self._arrivals, piece))
        self._references[self._arrivals] = piece.reference
        self._arrivals += 1
        self._tokens += length

    def _pop(self, length: int) -> Piece:
        waiting = self._by_length[length]
        arrival, piece = waiting.popleft()
        if not waiting:
            del self._by_length[length]
            del self._lengths[bisect_right(self._lengths, length) - 1]
        del self._references[arrival]
        self._tokens -= length
        return piece


class Flat(Packer):
    """The concatenated documents cut into rows; the last token of a row begins the next one.

    So every token except the very first is a target exactly once, and nothing is lost.
    """

    def fill(self, row: np.ndarray, ids: np.ndarray, documents: Iterator[Piece]) -> int:
        """See `Packer`."""
        used = count = 0
        while used < len(row):
            piece = self._queue.popleft() if self._queue else next(documents, None)
            if piece is None:
                break
            placed = piece.tokens[: len(row) - used]
            count += 1
            used = _write(placed, row, ids, used, count)
            if used == len(row):  # its last token is the first input of the next row
                self._queue.append(piece.rest(len(placed) - 1))
        # A single token was the last target of the row before: it predicts nothing.
        return 0 if used == 1 else used


class Pad(Packer):
    """One document per row, then padding.

    `oversize` is for documents longer than a row: `crop` loses the rest, `split` continues in the
    next row, `drop` skips them.
    """

    def __init__(self, oversize: str = "crop"):
        super().__init__()
        self._oversize = oversize

    def fill(self, row: np.ndarray, ids: np.ndarray, documents: Iterator[Piece]) -> int:
        """See `Packer`."""
        piece = self._queue.popleft() if self._queue else self._next(documents, len(row))
        if piece is None:
            return 0
        placed = piece.tokens[: len(row)]
        _write(placed, row, ids, 0, 1)
        if len(placed) < len(piece.tokens):
            if self._oversize == "split":
                self._queue.append(piece.rest(len(placed)))
            else:
                self.lost += len(piece.tokens) - len(placed)
        return len(placed)

    def _next(self, documents: Iterator[Piece], capacity: int) -> Piece | None:
        for piece in documents:
            if self._oversize != "drop" or len(piece.tokens) <= capacity:
                return piece
            self.lost += len(piece.tokens)
        return None


def _write(tokens: np.ndarray, row: np.ndarray, ids: np.ndarray, start: int, number: int) -> int:
    """Write a document into a row from `start` on; return its end."""
    end = start + len(tokens)
    # Not an assignment, which would silently change 64-bit ids that do not fit.
    np.copyto(row[start:end], tokens, casting="safe")
    ids[start:end] = number
    return end
