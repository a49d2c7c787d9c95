"""The documents of one source in their order, tokenized, from any position on."""

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from mlx_shards.errors import StateError
from mlx_shards.opening import Library, OpenShard
from mlx_shards.order import Order
from mlx_shards.packing import Piece, Reference
from mlx_shards.shard import Shard

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

    def __call__(self, documents: Sequence[str] | Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one vector a document; texts go through the tokenizer, tokens do not."""
        texts = [each for each in documents if isinstance(each, str)]
        if not texts:
            return [self._begin(each) for each in documents if isinstance(each, np.ndarray)]
        if self._tokenize is None:
            raise ValueError("the shards hold text: pass tokenize, a function of a list of texts")
        found = self._tokenize(texts)
        if len(found) != len(texts):
            raise ValueError(
                f"tokenize must return a list of token ids for each text: got {len(found)} for "
                f"{len(texts)} texts"
            )
        return [np.concatenate((self._bos, np.asarray(ids, np.int32))) for ids in found]

    def _begin(self, tokens: np.ndarray) -> np.ndarray:
        begun = len(tokens) and len(self._bos) and tokens[0] == self._bos[0]
        return tokens if begun else np.concatenate((self._bos, tokens))


class Walk:
    """An iterator over the documents of source number `source`, epoch after epoch.

    `position` is that of the next document. `epochs=None` never ends.
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
    ):
        self.position = position
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
                f"the state needs document {documents[-1]} of shard {opened.shard.name}, which "
                f"has {ends[-1]}"
            )
        tokens = []
        blocks = np.searchsorted(ends, documents, side="right")
        for block, group in groupby(zip(blocks, documents, strict=True), key=lambda each: each[0]):
            texts = opened.read(int(block))
            first = ends[block] - opened.sizes[block]
            chosen = [texts[document - first] for _, document in group]
            for part in _parts(chosen):
                self._library.check()
                tokens += self._encode(chosen[part])  # type: ignore[arg-type]
        return tokens

    def _walk(self) -> Generator[Piece, None, None]:
        epoch, begin, skip = self.position
        while self._epochs is None or epoch < self._epochs:
            order = Order(self._seed, self._source, epoch, self._shuffle)
            sequence = order.shards(len(self._shards))
            seen = begin + skip  # of an epoch begun earlier something was seen
            for place in range(begin, len(sequence)):
                coming = self._coming(epoch, place, sequence)
                number = 0
                for number, piece in self._shard(int(sequence[place]), order, skip, coming):
                    self.position = Position(epoch, place, number)
                    yield piece
                seen += number
                skip = 0
            if not seen:
                raise ValueError(
                    f"no documents in {', '.join(each.name for each in self._shards[:3])}"
                    + (" and others" if len(self._shards) > 3 else "")
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
    ) -> Iterator[tuple[int, Piece]]:
        """Yield pieces of one shard from the `skip`th on, with the number then given."""
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
                texts = opened.read(block)
                for part in _parts([texts[i] for i in chosen]):
                    self._library.check()
                    some = chosen[part]
                    encoded = self._encode([texts[i] for i in some])  # type: ignore[arg-type]
                    for document, tokens in zip(some, encoded, strict=True):
                        at += 1
                        if len(tokens):
                            where = Reference(self._source, index, int(firsts[block] + document))
                            yield at, Piece(where, tokens)
        finally:
            opened.close()


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
