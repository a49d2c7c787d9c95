"""The tokenized documents of one source, in a reproducible order, from any position.

The order is a pure function of seed, source, epoch and the numbers of documents. A shuffled epoch
permutes the shards, in each shard its blocks (row groups), and in each block its documents. So only
one block is in memory, and the order does not depend on previous reads.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from mlx_shards.formats import BadRow, Document
from mlx_shards.packing import Piece, Reference
from mlx_shards.reading import Opener, OpenShard, SkippedRows, check_ids
from mlx_shards.shard import Shard, StateError
from mlx_shards.state import Position, StreamConfig

Tokenize = Callable[[list[str]], Sequence[Sequence[int]]]

_SHARDS, _BLOCKS, _DOCUMENTS = range(3)
_BATCH_TEXTS = 128  # texts per call of the tokenizer, as in nanochat
_BATCH_CHARS = 2**22  # characters per call of the tokenizer


class Order:
    """The order of one epoch of one source; `shuffle=False` keeps the given order."""

    def __init__(self, seed: int, source: int, epoch: int, shuffle: bool):
        self._key = (seed, source, epoch)
        self._shuffle = shuffle

    def shards(self, count: int) -> np.ndarray:
        """Return the indices of `count` shards in order."""
        return self._permute(count, _SHARDS)

    def documents(self, shard: int, sizes: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """Return the index of each block in order, with the indices of its documents in order.

        `sizes` are the numbers of documents in the blocks; documents count from 0 in their block.
        """
        return [
            (int(block), self._permute(sizes[block], _DOCUMENTS, shard, int(block)))
            for block in self._permute(len(sizes), _BLOCKS, shard)
        ]

    def _permute(self, count: int, *key: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(count)
        # NumPy may change how `permutation` draws; the raw bits of a bit generator never change, so
        # a saved state means the same order under every version.
        bits = np.random.PCG64(np.random.SeedSequence((*self._key, *key))).random_raw(count)
        return np.argsort(bits, kind="stable")


class Encoder:
    """Turns documents into int32 vectors that begin with `bos_id` (None: no BOS)."""

    def __init__(self, tokenize: Tokenize | None, bos_id: int | None):
        self._tokenize = tokenize
        self._bos = np.array([] if bos_id is None else [bos_id], np.int32)

    def __call__(self, documents: Sequence[Document]) -> list[np.ndarray | BadRow]:
        """Return one vector per document; a `BadRow` if the tokenizer fails or ids are invalid."""
        texts = [each for each in documents if isinstance(each, str)]
        tokenized = iter(self._tokenize_all(texts) if texts else [])
        encoded: list[np.ndarray | BadRow] = []
        for document in documents:
            is_text = isinstance(document, str)
            ids = next(tokenized) if is_text else document
            ids = ids if isinstance(ids, BadRow) else check_ids(ids)
            if isinstance(ids, np.ndarray) and (is_text or not self._has_bos(ids)):
                ids = np.concatenate((self._bos, ids))
            encoded.append(ids)
        return encoded

    def _tokenize_all(self, texts: list[str]) -> list[Sequence[int] | BadRow]:
        if self._tokenize is None:
            raise ValueError("the shards are text: pass tokenize, a function of a list of texts")
        try:
            encoded = self._tokenize(texts)
        except MemoryError:
            raise
        except Exception as error:
            if len(texts) > 1:  # find the text that it fails on
                return [each for text in texts for each in self._tokenize_all([text])]
            reason = f"the tokenizer failed: {type(error).__name__}: {error}"
            return [BadRow(reason, cause=error)]
        count = len(encoded) if hasattr(encoded, "__len__") else type(encoded).__name__
        if count != len(texts):
            raise ValueError(
                f"tokenize must return a list of token ids for each text: got {count} for "
                f"{len(texts)} texts"
            )
        return list(encoded)

    def _has_bos(self, tokens: np.ndarray) -> bool:
        return bool(len(tokens) and len(self._bos) and tokens[0] == self._bos[0])


@dataclass
class DocumentIterator(Iterator[Piece]):
    """An iterator over the documents of source number `source`, epoch after epoch.

    `position` is the position of the next document; `lookahead` shards are downloaded ahead.
    `skipped` counts bad rows over all epochs; `skipped_rows` has the first ones.
    """

    source: int
    shards: Sequence[Shard]
    opener: Opener
    encode: Encoder
    config: StreamConfig
    lookahead: int
    skipped_rows: SkippedRows
    position: Position
    skipped: int

    def __post_init__(self) -> None:
        self._pieces = self._read_epochs()

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Close the open shard."""
        self._pieces.close()

    def reread(self, references: Sequence[Reference]) -> list[Piece]:
        """Return the pieces of these references, in the same order."""
        tokens: dict[tuple[int, int], np.ndarray] = {}
        needed = sorted({(each.shard, each.document) for each in references})
        for shard, group in groupby(needed, key=lambda each: each[0]):
            with self.opener.open(self.shards[shard]) as opened:
                rows = [document for _, document in group]
                tokens |= {(shard, row): ids for row, ids in self._read_rows(opened, rows)}
        return [Piece(each, tokens[each.shard, each.document][each.start :]) for each in references]

    def _read_rows(self, opened: OpenShard, rows: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield rows of a shard, given in ascending order, with their tokens."""
        ends = np.cumsum(opened.sizes)
        if rows[-1] >= ends[-1]:
            raise StateError(
                f"the state needs document {rows[-1]} of {opened.shard.address}, which has "
                f"{ends[-1]}"
            )
        blocks = np.searchsorted(ends, rows, side="right")
        for block, group in groupby(zip(blocks, rows, strict=True), key=lambda each: each[0]):
            documents = opened.read(int(block))
            first = ends[block] - opened.sizes[block]
            some = [row for _, row in group]
            chosen = [documents[row - first] for row in some]
            for row, ids in self._encode_rows(opened, some, chosen):
                if isinstance(ids, BadRow):  # it was good when the state was saved
                    raise opened.error_of(row, ids)
                yield row, ids

    def _encode_rows(
        self, opened: OpenShard, rows: Sequence[int], documents: Sequence[Document]
    ) -> Iterator[tuple[int, np.ndarray | BadRow]]:
        """Yield each row with its tokens."""
        for batch in _tokenizer_batches(documents):
            self.opener.stop.check()
            try:
                encoded = self.encode(documents[batch])
            except ValueError as error:
                span = f"rows {min(rows[batch]) + 1} to {max(rows[batch]) + 1}"
                raise ValueError(f"{opened.shard.address}: {span}: {error}") from error
            yield from zip(rows[batch], encoded, strict=True)

    def _read_epochs(self) -> Generator[Piece, None, None]:
        epoch, first, skip = self.position
        while self.config.epochs is None or epoch < self.config.epochs:
            order = Order(self.config.seed, self.source, epoch, self.config.shuffle)
            sequence = order.shards(len(self.shards))
            is_empty = first + skip == 0  # a position inside an epoch has documents before it
            for index in range(first, len(sequence)):
                upcoming = self._upcoming(epoch, index, sequence)
                for number, piece in self._read_shard(int(sequence[index]), order, skip, upcoming):
                    self.position = Position(epoch, index, number)
                    if piece:
                        is_empty = False
                        yield piece
                skip = 0
            if is_empty:
                raise ValueError(
                    f"no documents in {', '.join(each.address for each in self.shards[:3])}"
                    + (" and others" if len(self.shards) > 3 else "")
                    + (f"; {self.skipped:,} rows were skipped" if self.skipped else "")
                )
            epoch, first = epoch + 1, 0

    def _upcoming(self, epoch: int, index: int, sequence: np.ndarray) -> list[Shard]:
        """Return the next shards, including those of the next epoch."""
        upcoming = sequence[index + 1 : index + 1 + self.lookahead].tolist()
        missing = self.lookahead - len(upcoming)
        if missing and (self.config.epochs is None or epoch + 1 < self.config.epochs):
            following = Order(self.config.seed, self.source, epoch + 1, self.config.shuffle)
            upcoming += following.shards(len(self.shards))[:missing].tolist()
        return [self.shards[each] for each in dict.fromkeys(upcoming)]

    def _read_shard(
        self, index: int, order: Order, skip: int, upcoming: list[Shard]
    ) -> Iterator[tuple[int, Piece | None]]:
        """Yield the pieces after the first `skip` rows, each with the number of rows read.

        For a skipped row it yields None.
        """
        with self.opener.open(self.shards[index]) as opened:
            sizes = opened.sizes
            # Not earlier: downloads ahead must not take the room of this shard.
            if self.opener.prefetcher:
                self.opener.prefetcher.announce(self.source, self.shards[index], upcoming)
            firsts = np.cumsum([0, *sizes])
            before = 0
            for block, order_in_block in order.documents(index, sizes):
                chosen = order_in_block[max(skip - before, 0) :]
                count = before + len(order_in_block) - len(chosen)
                before += len(order_in_block)
                if not len(chosen):
                    continue
                documents = opened.read(block, self.config.on_error)
                rows = [int(firsts[block] + i) for i in chosen]
                some = [documents[i] for i in chosen]
                for row, tokens in self._encode_rows(opened, rows, some):
                    count += 1
                    if isinstance(tokens, BadRow):
                        self._skip(opened, row, tokens)
                        yield count, None
                    elif len(tokens):
                        yield count, Piece(Reference(self.source, index, row), tokens)

    def _skip(self, opened: OpenShard, row: int, bad: BadRow) -> None:
        error = opened.error_of(row, bad)
        if self.config.on_error == "raise":
            raise error
        self.skipped += 1
        self.skipped_rows.add(opened.shard, row, str(error))


def _tokenizer_batches(documents: Sequence) -> Iterator[slice]:
    """Yield the documents of each call of the tokenizer, in order."""
    begin = size = 0
    for index, document in enumerate(documents):
        length = len(document) if hasattr(document, "__len__") else 0
        is_full = index - begin == _BATCH_TEXTS or size + length > _BATCH_CHARS
        if is_full and index > begin:
            yield slice(begin, index)
            begin, size = index, 0
        size += length
    if begin < len(documents):
        yield slice(begin, len(documents))
