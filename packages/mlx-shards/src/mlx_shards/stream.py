"""The stream of batches that a training loop iterates over."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mlx_shards.batches import Batch, Batcher
from mlx_shards.cache import Cache, CacheStats
from mlx_shards.documents import Encoder, Tokenize
from mlx_shards.formats import ReadOptions
from mlx_shards.prefetch import BackgroundIterator, ShardPrefetcher
from mlx_shards.reading import Opener, SkippedRow, SkippedRows
from mlx_shards.shard import Shard
from mlx_shards.sources import Source, as_sources
from mlx_shards.state import Counts, Snapshot, StreamConfig, first_snapshot, from_json, to_json
from mlx_shards.sync import Stop, Stopped


@dataclass(frozen=True)
class Stats:
    """Counts and times; only `counts` include the time before a resume.

    `stall_seconds` is the time that the training loop waited for batches, excluding the first one
    (`first_batch_seconds`).
    """

    counts: Counts
    stall_seconds: float
    first_batch_seconds: float
    cache: CacheStats


class TokenStream:
    """An iterable of batches of token ids, from shards of text or tokens.

    `shards` is a list, or a dict of named `Source`s to mix. `tokenize` turns a list of texts into
    lists of ids (None for token shards). Remote shards need a `cache`. Only `config`, `rank` and
    `world_size` determine the content of the batches. `prefetch` (batches ahead, in one thread) and
    `shards_ahead` (downloads ahead, one thread each) may change any time; 0 means no thread.
    `arrays` is the type of the batches.

    Leaving the loop stops the threads; another loop continues after the last batch.
    """

    def __init__(
        self,
        shards: Sequence[Shard] | Mapping[str, Source],
        tokenize: Tokenize | None,
        config: StreamConfig,
        *,
        cache: Cache | None = None,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
        shards_ahead: int = 1,
        arrays: Literal["mlx", "numpy"] = "mlx",
    ):
        if prefetch < 0 or shards_ahead < 0:
            raise ValueError(
                f"prefetch and shards_ahead must not be negative, got {prefetch}, {shards_ahead}"
            )
        if arrays not in ("mlx", "numpy"):
            raise ValueError(f"arrays must be 'mlx' or 'numpy', got {arrays!r}")
        self.config = config
        self._sources = as_sources(shards)
        self._skipped = SkippedRows()
        encode = Encoder(tokenize, config.bos_id)
        self._batcher = Batcher(
            self._sources, encode, config, rank, world_size, shards_ahead, self._skipped
        )
        self._cache = cache
        self._prefetch = prefetch
        self._arrays = arrays
        self._snapshot = first_snapshot(len(self._sources))
        self._run: _Run | None = None
        self._stall_seconds = self._first_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches after the last one; raises `RuntimeError` inside another loop."""
        if self._run:
            raise RuntimeError(
                "this stream is being iterated over already: leave that loop, or close() it"
            )
        run = self._run = _Run(self._batcher, self._cache, self._prefetch, self._snapshot)
        is_first = True
        try:
            while True:
                start = time.perf_counter()
                item = run.next()
                seconds = time.perf_counter() - start
                if is_first:
                    self._first_seconds += seconds
                else:
                    self._stall_seconds += seconds
                if item is None:
                    return
                is_first = False
                batch, self._snapshot = item
                yield batch if self._arrays == "numpy" else _to_mlx(batch)
        finally:
            run.close()
            if self._run is run:
                self._run = None

    def close(self) -> None:
        """Stop the threads of an open loop; it gets no more batches."""
        run, self._run = self._run, None
        if run:
            run.close()

    def __enter__(self) -> "TokenStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def state(self) -> dict:
        """Return the state after the last batch, ready for JSON.

        It does not depend on prefetching or the cache. A stream of another world size continues at
        the next global row; if `batch_size * world_size` is equal, so are the global batches.
        """
        return to_json(self._snapshot, self.config, self._sources)

    def load_state(self, state: Mapping | str) -> None:
        """Continue after a state of this stream, or of one with the same shards and config.

        `batch_size`, `epochs`, `last_batch`, `on_error` and everything outside the config may
        differ. Raises `StateError` otherwise.
        """
        self._check_closed()
        saved = json.loads(state) if isinstance(state, str) else state
        self._snapshot = from_json(saved, self.config, self._sources)

    def reset(self) -> None:
        """Restart from the beginning, for example to evaluate on the same batches."""
        self._check_closed()
        self._snapshot = first_snapshot(len(self._sources))

    @property
    def stats(self) -> Stats:
        """The current counts and times."""
        cache = self._cache.stats if self._cache else CacheStats()
        return Stats(self._snapshot.counts, self._stall_seconds, self._first_seconds, cache)

    @property
    def skipped(self) -> list[SkippedRow]:
        """The first 100 skipped rows (`on_error="skip"`), each once, including rows read ahead.

        `stats.counts.skipped` and the state count only rows up to the last batch.
        """
        return self._skipped.rows

    def _check_closed(self) -> None:
        if self._run:
            raise RuntimeError("leave the loop over this stream, or close() it, before this")


class _Run:
    """One loop over a stream: an iterator of batches, and its threads."""

    def __init__(self, batcher: Batcher, cache: Cache | None, prefetch: int, snapshot: Snapshot):
        stop = self._stop = Stop()
        config, threads = batcher.config, batcher.lookahead
        options = ReadOptions(config.column, config.bos_id, config.token_dtype)
        self._prefetcher = None
        if cache and threads:
            self._prefetcher = ShardPrefetcher(cache.claim_ahead, threads, stop)
        opener = Opener(cache, options, stop, self._prefetcher)
        make = partial(batcher.make, opener, snapshot)
        self._thread = BackgroundIterator(make, prefetch, stop) if prefetch else None
        self._batches = self._thread or make()

    def next(self) -> tuple[Batch, Snapshot] | None:
        """Return the next batch and the snapshot after it; None at the end or when closed."""
        if self._stop.is_set():
            return None
        try:
            return next(self._batches, None)
        except Stopped:  # closed by another thread, with prefetch=0
            return None

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._stop.set()
        if self._thread:
            self._thread.close()
        if self._prefetcher:
            self._prefetcher.close()
        self._batches = iter(())


def _to_mlx(batch: Batch) -> Batch:
    """Convert in the consumer's thread: MLX's streams are local to a thread."""
    try:
        import mlx.core as mx
    except ImportError as error:
        raise ImportError(
            "arrays='mlx' needs MLX: pip install 'mlx-shards[cpu]' (or [cuda12], [cuda13]); or "
            "pass arrays='numpy'"
        ) from error
    inputs, targets = mx.array(batch.inputs), mx.array(batch.targets)
    return Batch(inputs, targets, mx.array(batch.document_ids), batch.rows)
