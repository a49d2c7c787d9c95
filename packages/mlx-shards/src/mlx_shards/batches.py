"""Make the batches of one rank from a snapshot on, in NumPy: the work of the background thread."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mlx_shards.config import StreamConfig
from mlx_shards.errors import StateError
from mlx_shards.mixing import Mixture, Source
from mlx_shards.opening import Library
from mlx_shards.packing import Packer, Piece, Reference, make_packer
from mlx_shards.skips import Skips
from mlx_shards.state import Snapshot, advanced
from mlx_shards.walk import Encoder, Walk


@dataclass(frozen=True)
class Arrays:
    """One batch, (B, T) int32 each; `rows` of them are not all padding."""

    inputs: np.ndarray
    targets: np.ndarray
    document_ids: np.ndarray
    rows: int


@dataclass(frozen=True)
class Share:
    """Which rows of a global batch belong to this rank."""

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, {self.world_size}), got {self.rank}")


def make_batches(
    sources: Mapping[str, Source],
    encode: Encoder,
    config: StreamConfig,
    share: Share,
    library: Library,
    shards_ahead: int,
    skips: Skips,
    snapshot: Snapshot,
) -> Iterator[tuple[Arrays, Snapshot]]:
    """Yield each batch with the snapshot after it.

    Every rank packs the same global batches, of `batch_size * world_size` rows, and takes its own
    rows. So ranks always agree on their number, and a rank reads and tokenizes everything.
    """
    mixture = _mixture(sources, encode, config, library, shards_ahead, skips, snapshot)
    packer = _packer(config, mixture, snapshot)
    try:
        yield from _pack(mixture, packer, config, share, snapshot)
    finally:
        for walk in mixture.walks:
            walk.close()


def _pack(
    mixture: Mixture, packer: Packer, config: StreamConfig, share: Share, snapshot: Snapshot
) -> Iterator[tuple[Arrays, Snapshot]]:
    shape = (config.batch_size * share.world_size, config.sequence_length + 1)
    counts, skipped = snapshot.counts, sum(snapshot.skipped)
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
                    f"the shards fill {rows} rows, fewer than one batch of {len(tokens)}; lower "
                    "batch_size, raise epochs or set last_batch='pad'"
                )
            return
        placed = int(lengths.sum())
        counts = advanced(
            counts,
            batches=1,
            rows=rows,
            tokens=placed,
            lost=packer.lost - lost,
            padding=tokens.size - placed,
            skipped=sum(walk.skipped for walk in mixture.walks) - skipped,
        )
        skipped = sum(walk.skipped for walk in mixture.walks)
        snapshot = Snapshot(
            tuple(walk.position for walk in mixture.walks),
            tuple(mixture.given),
            packer.held(),
            packer.held_tokens(),
            counts,
            tuple(walk.skipped for walk in mixture.walks),
        )
        yield _arrays(tokens, ids, lengths, config, share), snapshot


def _arrays(
    tokens: np.ndarray, ids: np.ndarray, lengths: np.ndarray, config: StreamConfig, share: Share
) -> Arrays:
    """Cut out the rows of this rank; the target of a token is the next one."""
    mine = slice(share.rank * config.batch_size, (share.rank + 1) * config.batch_size)
    tokens, ids, lengths = tokens[mine], ids[mine], lengths[mine]
    targets = tokens[:, 1:].copy()
    targets[np.arange(1, tokens.shape[1]) >= lengths[:, None]] = config.ignore_id
    inputs = np.ascontiguousarray(tokens[:, :-1])
    return Arrays(inputs, targets, np.ascontiguousarray(ids[:, :-1]), int((lengths > 0).sum()))


def _mixture(
    sources: Mapping[str, Source],
    encode: Encoder,
    config: StreamConfig,
    library: Library,
    shards_ahead: int,
    skips: Skips,
    snapshot: Snapshot,
) -> Mixture:
    walks = [
        Walk(
            number,
            source.shards,
            library,
            encode,
            seed=config.seed,
            shuffle=config.shuffle,
            epochs=config.epochs,
            ahead=shards_ahead,
            position=position,
            skipped=skipped,
            skips=skips if config.on_error == "skip" else None,
        )
        for number, (source, position, skipped) in enumerate(
            zip(sources.values(), snapshot.positions, snapshot.skipped, strict=True)
        )
    ]
    return Mixture(walks, [source.weight for source in sources.values()], snapshot.given)


def _packer(config: StreamConfig, mixture: Mixture, snapshot: Snapshot) -> Packer:
    """Return the packer with what it held at the snapshot."""
    capacity = config.sequence_length + 1
    packer = make_packer(config.packing, capacity, config.oversize, config.buffer_size)
    by_source: dict[int, list[Reference]] = {}
    for reference in snapshot.held:
        by_source.setdefault(reference.source, []).append(reference)
    pieces: dict[Reference, Piece] = {}
    for source, references in by_source.items():
        read = mixture.walks[source].read_again(references)
        pieces |= zip(references, read, strict=True)
    packer.restore(pieces[reference] for reference in snapshot.held)
    if packer.held_tokens() != snapshot.held_tokens:
        raise StateError(
            f"the {len(snapshot.held)} documents that the packer held have "
            f"{packer.held_tokens():,} tokens and had {snapshot.held_tokens:,}: the tokenizer or "
            "the shards have changed since the state was saved"
        )
    return packer
