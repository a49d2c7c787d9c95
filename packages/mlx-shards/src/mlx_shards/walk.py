"""The documents of one source in their order, tokenized, from any position on."""

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from mlx_shards.errors import StateError
from mlx_shards.formats import BadRow, Document
from mlx_shards.opening import Library, OpenShard, checked
from mlx_shards.order import Order
from mlx_shards.packing import Piece, Reference
from mlx_shards.shard import Shard
from mlx_shards.skips import Skips

Tokenize = Callable[[list[str]], Sequence[Sequence[int]]]

_AT_ONCE = 128  # texts a call of the tokenizer, as nanochat
_CHARS_AT_ONCE = 2**22  # or as many as have so many characters


class Position(NamedTuple):
    """The next document: how many shards of the epoch, and documents of that shard, came before."""

    epoch: int = 0
    shard: int = 0
    document: int = 0


class Encoder:
    """Turns documents into int32 vectors that begin with `bos_id` (None: with nothing)."""

    def __init__(self, tokenize: Tokenize | None, bos_id: int | None):
        self._tokenize = tokenize
        self._bos = np.array([] if bos_id is None else [bos_id], np.int32)

    def __call__(self, documents: Sequence[Document]) -> list[np.ndarray | BadRow]:
        """Return one vector a document; texts go through the tokenizer, tokens do not.

        `BadRow` stands for what the tokenizer fails at, and for ids that do not fit int32.
        """
        texts = [each for each in documents if isinstance(each, str)]
        tokenized = iter(self._texts(texts) if texts else [])
        found: list[np.ndarray | BadRow] = []
        for each in documents:
            ids = next(tokenized) if isinstance(each, str) else each
            ids = ids if isinstance(ids, BadRow) else checked(ids)
            found.append(
                ids if isinstance(ids, BadRow) else self._begin(ids, isinstance(each, str))
            )
        return found

    def _texts(self, texts: list[str]) -> list[Sequence[int] | BadRow]:
        if self._tokenize is None:
            raise ValueError("the shards hold text: pass tokenize, a function of a list of texts")
        try:
            found = self._tokenize(texts)
        except MemoryError:
            raise
        except Exception as error:
            if len(texts) > 1:  # find out which
                return [each for text in texts for each in self._texts([text])]
            reason = f"the tokenizer failed: {type(error).__name__}: {error}"
            return [BadRow(reason, cause=error)]
        count = len(found) if hasattr(found, "__len__") else type(found).__name__
        if count != len(texts):
            raise ValueError(
                f"tokenize must return a list of token ids for each text: got {count} for "
                f"{len(texts)} texts"
            )
        return list(found)

    def _begin(self, tokens: np.ndarray, is_text: bool) -> np.ndarray:
        begun = not is_text and len(tokens) and len(self._bos) and tokens[0] == self._bos[0]
        return tokens if begun else np.concatenate((self._bos, tokens))


class Walk:
    """An iterator over the documents of source number `source`, epoch after epoch.

    `position` is that of the next document. `epochs=None` never ends. `skipped` counts bad rows,
    an epoch each; `skips` is told of them, and is None where a bad row is an error.
    """

    def __init__(
        self,
        source: int,
        shards: Sequence[Shard],
        library: Library,
        encode: Encoder,
        *,
        seed: int,
        shuffle: bool,
        epochs: int | None,
        ahead: int,
        position: Position,
        skipped: int = 0,
        skips: Skips | None = None,
    ):
        self.position = position
        self.skipped = skipped
        self._skips = skips
        self._source = source
        self._shards = shards
        self._library = library
        self._encode = encode
        self._seed = seed
        self._shuffle = shuffle
        self._epochs = epochs
        self._ahead = ahead
        self._documents = self._walk()

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._documents)

    def close(self) -> None:
        """Close the shard that is open."""
        self._documents.close()

    def read_again(self, references: Sequence[Reference]) -> list[Piece]:
        """Return the pieces that the references stand for, in the same order."""
        found: dict[tuple[int, int], np.ndarray] = {}
        wanted = sorted({(each.shard, each.document) for each in references})
        for shard, group in groupby(wanted, key=lambda each: each[0]):
            opened = self._library.open(self._shards[shard])
            try:
                documents = [document for _, document in group]
                tokens = self._read_documents(opened, documents)
            finally:
                opened.close()
            found |= {(shard, each): t for each, t in zip(documents, tokens, strict=True)}
        return [Piece(each, found[each.shard, each.document][each.start :]) for each in references]

    def _read_documents(self, opened: OpenShard, documents: list[int]) -> list[np.ndarray]:
        """Return the tokens of documents of one shard, given by ascending index."""
        ends = np.cumsum(opened.sizes)
        if documents[-1] >= ends[-1]:
            raise StateError(
                f"the state needs document {documents[-1]} of {opened.shard.address}, which has "
                f"{ends[-1]}"
            )
        tokens = []
        blocks = np.searchsorted(ends, documents, side="right")
        for block, group in groupby(zip(blocks, documents, strict=True), key=lambda each: each[0]):
            texts = opened.read(int(block))
            first = ends[block] - opened.sizes[block]
            rows = [document for _, document in group]
            chosen = [texts[row - first] for row in rows]
            for part in _parts(chosen):
                some = rows[part]
                for row, ids in zip(
                    some, self._encode_rows(opened, some, chosen[part]), strict=True
                ):
                    if isinstance(ids, BadRow):  # it was good when the state was saved
                        raise opened.error_of(row, ids)
                    tokens.append(ids)
        return tokens

    def _encode_rows(
        self, opened: OpenShard, rows: Sequence[int], documents: Sequence[Document]
    ) -> list[np.ndarray | BadRow]:
        self._library.check()
        try:
            return self._encode(documents)
        except ValueError as error:
            span = f"rows {min(rows) + 1} to {max(rows) + 1}"
            raise ValueError(f"{opened.shard.address}: {span}: {error}") from error

    def _walk(self) -> Generator[Piece, None, None]:
        epoch, begin, skip = self.position
        while self._epochs is None or epoch < self._epochs:
            order = Order(self._seed, self._source, epoch, self._shuffle)
            sequence = order.shards(len(self._shards))
            seen = begin + skip > 0  # of an epoch begun earlier something was seen
            for place in range(begin, len(sequence)):
                coming = self._coming(epoch, place, sequence)
                for number, piece in self._shard(int(sequence[place]), order, skip, coming):
                    self.position = Position(epoch, place, number)
                    if piece:
                        seen = True
                        yield piece
                skip = 0
            if not seen:
                raise ValueError(
                    f"no documents in {', '.join(each.address for each in self._shards[:3])}"
                    + (" and others" if len(self._shards) > 3 else "")
                    + (f"; {self.skipped:,} rows were skipped" if self.skipped else "")
                )
            epoch, begin = epoch + 1, 0

    def _coming(self, epoch: int, place: int, sequence: np.ndarray) -> list[Shard]:
        """Return the next shards, also those of the next epoch."""
        coming = sequence[place + 1 : place + 1 + self._ahead].tolist()
        missing = self._ahead - len(coming)
        if missing and (self._epochs is None or epoch + 1 < self._epochs):
            following = Order(self._seed, self._source, epoch + 1, self._shuffle)
            coming += following.shards(len(self._shards))[:missing].tolist()
        return [self._shards[each] for each in dict.fromkeys(coming)]

    def _shard(
        self, index: int, order: Order, skip: int, coming: list[Shard]
    ) -> Iterator[tuple[int, Piece | None]]:
        """Yield pieces of one shard from the `skip`th on, with the number then given.

        None for a row that is skipped.
        """
        opened = self._library.open(self._shards[index])
        try:
            sizes = opened.sizes
            # Only now: what comes later must not take the room of this shard.
            self._library.expect(self._source, self._shards[index], coming)
            firsts = np.cumsum([0, *sizes])
            before = 0
            for block, documents in order.documents(index, sizes):
                chosen = documents[max(skip - before, 0) :]
                at = before + len(documents) - len(chosen)
                before += len(documents)
                if not len(chosen):
                    continue
                texts = opened.read(block, "skip" if self._skips else "raise")
                for part in _parts([texts[i] for i in chosen]):
                    some = chosen[part]
                    rows = [int(firsts[block] + i) for i in some]
                    encoded = self._encode_rows(opened, rows, [texts[i] for i in some])
                    for row, tokens in zip(rows, encoded, strict=True):
                        at += 1
                        if isinstance(tokens, BadRow):
                            self._skip(opened, row, tokens)
                            yield at, None
                        elif len(tokens):
                            yield at, Piece(Reference(self._source, index, row), tokens)
        finally:
            opened.close()

    def _skip(self, opened: OpenShard, row: int, bad: BadRow) -> None:
        error = opened.error_of(row, bad)
        if self._skips is None:
            raise error
        self.skipped += 1
        self._skips.add(opened.shard, row, str(error))


def _parts(texts: Sequence) -> Iterator[slice]:
    """Yield what to give to each call of the tokenizer, in order."""
    begin = size = 0
    for place, text in enumerate(texts):
        length = len(text) if hasattr(text, "__len__") else 0
        if place - begin == _AT_ONCE or (place > begin and size + length > _CHARS_AT_ONCE):
            yield slice(begin, place)
            begin, size = place, 0
        size += length
    if begin < len(texts):
        yield slice(begin, len(texts))
