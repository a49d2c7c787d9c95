"""Pack documents into the batches of one rank, starting from a snapshot; NumPy, runs in a thread.

Every rank packs the same global batches of `batch_size * world_size` rows, and takes its rows from
them. So all ranks have the same number of batches, but each reads and tokenizes everything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_shards.documents import DocumentIterator, Encoder
from mlx_shards.packing import BestFit, Flat, Packer, Pad, Piece, Reference
from mlx_shards.reading import Opener, SkippedRows
from mlx_shards.shard import StateError
from mlx_shards.sources import Source
from mlx_shards.state import Counts, Snapshot, StreamConfig


@dataclass(frozen=True)
class Batch:
    """(B, T) int32 each, `mx.array` or NumPy.

    `targets` are the tokens after `inputs`, `ignore_id` if none follows. `document_ids` number the
    documents of a row from 1, 0 is padding: tokens with equal ids may attend to each other. `rows`
    is less than B only in a padded last batch.
    """

    inputs: Any
    targets: Any
    document_ids: Any
    rows: int


class Mixture(Iterator[Piece]):
    """An iterator over the documents of several sources.

    The next document comes from the source farthest below its share of the tokens so far. This is
    deterministic, and no share is off by more than a document. When a source is exhausted (finite
    `epochs`), the others get its share.
    """

    def __init__(
        self,
        iterators: Sequence[DocumentIterator],
        weights: Sequence[float],
        tokens_read: Sequence[int],
    ):
        total = sum(weights)
        self.iterators = iterators
        self.tokens_read = list(tokens_read)  # by source
        self._shares = [weight / total for weight in weights]
        self._active = list(range(len(iterators)))

    def __next__(self) -> Piece:
        while self._active:
            source = min(self._active, key=lambda each: self.tokens_read[each] / self._shares[each])
            piece = next(self.iterators[source], None)
            if piece is not None:
                self.tokens_read[source] += len(piece.tokens)
                return piece
            self._active.remove(source)
        raise StopIteration


@dataclass(frozen=True)
class Batcher:
    """Builds the batches of one rank; `lookahead` is the number of shards to download ahead."""

    sources: Mapping[str, Source]
    encode: Encoder
    config: StreamConfig
    rank: int
    world_size: int
    lookahead: int
    skipped_rows: SkippedRows

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, {self.world_size}), got {self.rank}")

    def make(self, opener: Opener, snapshot: Snapshot) -> Iterator[tuple[Batch, Snapshot]]:
        """Yield each batch after a snapshot, with the snapshot after the batch."""
        mixture = self._mixture(opener, snapshot)
        packer = self._packer(mixture, snapshot)
        try:
            yield from self._pack(mixture, packer, snapshot)
        finally:
            for each in mixture.iterators:
                each.close()

    def _pack(
        self, mixture: Mixture, packer: Packer, snapshot: Snapshot
    ) -> Iterator[tuple[Batch, Snapshot]]:
        config, counts = self.config, snapshot.counts
        shape = (config.batch_size * self.world_size, config.sequence_length + 1)
        while True:
            tokens = np.full(shape, config.pad_id, np.int32)
            ids = np.zeros(shape, np.int32)
            lengths = np.zeros(len(tokens), np.int64)
            lost = packer.lost
            for row in range(len(tokens)):
                lengths[row] = packer.fill(tokens[row], ids[row], mixture)
                if not lengths[row]:
                    break
            rows = int((lengths > 0).sum())
            if rows < len(tokens) and (config.last_batch == "drop" or not rows):
                if not counts.batches:
                    raise ValueError(
                        f"the shards fill only {rows} rows of one batch of {len(tokens)}; "
                        "lower batch_size, raise epochs or set last_batch='pad'"
                    )
                return
            placed = int(lengths.sum())
            skipped = tuple(each.skipped for each in mixture.iterators)
            counts = Counts(
                counts.batches + 1,
                counts.rows + rows,
                counts.tokens + placed,
                counts.lost + packer.lost - lost,
                counts.padding + tokens.size - placed,
                sum(skipped),
            )
            snapshot = Snapshot(
                tuple(each.position for each in mixture.iterators),
                tuple(mixture.tokens_read),
                packer.held(),
                packer.held_tokens(),
                counts,
                skipped,
            )
            yield self._batch(tokens, ids, lengths), snapshot

    def _batch(self, tokens: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> Batch:
        """Select the rows of this rank; the target of a token is the next one."""
        first = self.rank * self.config.batch_size
        mine = slice(first, first + self.config.batch_size)
        tokens, ids, lengths = tokens[mine], ids[mine], lengths[mine]
        targets = tokens[:, 1:].copy()
        targets[np.arange(1, tokens.shape[1]) >= lengths[:, None]] = self.config.ignore_id
        inputs = np.ascontiguousarray(tokens[:, :-1])
        return Batch(inputs, targets, np.ascontiguousarray(ids[:, :-1]), int((lengths > 0).sum()))

    def _mixture(self, opener: Opener, snapshot: Snapshot) -> Mixture:
        iterators = [
            DocumentIterator(
                number,
                source.shards,
                opener,
                self.encode,
                self.config,
                self.lookahead,
                self.skipped_rows,
                snapshot.positions[number],
                snapshot.skipped[number],
            )
            for number, source in enumerate(self.sources.values())
        ]
        weights = [source.weight for source in self.sources.values()]
        return Mixture(iterators, weights, snapshot.tokens_read)

    def _packer(self, mixture: Mixture, snapshot: Snapshot) -> Packer:
        """Return a packer with the pieces that were buffered at the snapshot."""
        config = self.config
        packers = {
            "best_fit": BestFit(config.sequence_length + 1, config.oversize, config.buffer_size),
            "flat": Flat(),
            "pad": Pad(config.oversize),
        }
        packer = packers[config.packing]
        pieces: dict[Reference, Piece] = {}
        for number, iterator in enumerate(mixture.iterators):
            references = [each for each in snapshot.held if each.source == number]
            pieces |= zip(references, iterator.reread(references), strict=True)
        packer.restore(pieces[reference] for reference in snapshot.held)
        if packer.held_tokens() != snapshot.held_tokens:
            raise StateError(
                f"the {len(snapshot.held)} buffered documents have {packer.held_tokens():,} tokens "
                f"instead of {snapshot.held_tokens:,}: the tokenizer or the shards have changed "
                "since the state was saved"
            )
        return packer
