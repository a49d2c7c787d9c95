"""The stream that a training loop iterates over."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlx_shards.batches import Arrays, Share, make_batches
from mlx_shards.cache import Cache
from mlx_shards.config import StreamConfig
from mlx_shards.formats import ReadOptions
from mlx_shards.mixing import Source, as_sources
from mlx_shards.opening import Library
from mlx_shards.prefetch import Ahead, ShardsAhead
from mlx_shards.shard import Shard
from mlx_shards.skips import SkippedRow, Skips
from mlx_shards.state import Counts, Snapshot, first_snapshot, from_json, to_json
from mlx_shards.stop import Stop, Stopped
from mlx_shards.tally import CacheStats
from mlx_shards.walk import Encoder, Tokenize


@dataclass(frozen=True)
class Batch:
    """(B, T) int32 each, `mx.array` or NumPy.

    `targets` are the tokens after `inputs`, `ignore_id` where there is none. `document_ids` number
    the documents of a row from 1, 0 is padding: equal ids may attend to each other. `rows` is less
    than B only in a padded last batch.
    """

    inputs: Any
    targets: Any
    document_ids: Any
    rows: int


@dataclass(frozen=True)
class Stats:
    """`counts` since the beginning of the stream, also before a resume; the rest by this object.

    `stall_seconds` is the time that `for batch in stream` waited for batches, after the first one
    that it got: the time that training lost.
    """

    counts: Counts
    stall_seconds: float
    first_batch_seconds: float
    cache: CacheStats


class TokenStream:
    """Batches of token ids from shards of text or tokens; iterate over it.

    `shards` is a list, or a dict of named `Source`s to mix. `tokenize` turns a list of texts into
    lists of ids (None for shards of tokens). `cache` is needed where shards must be downloaded.
    What the batches hold is decided by `config`, and by `rank` of `world_size` alone; `prefetch`
    (batches ahead, in one thread) and `shards_ahead` (downloads ahead, each in one) may change any
    time, and 0 means no thread. `arrays` is what batches are made of.

    Leaving the loop ends the threads; another loop goes on after the last batch given.
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
        self._encode = Encoder(tokenize, config.bos_id)
        self._cache = cache
        self._share = Share(rank, world_size)
        self._prefetch = prefetch
        self._shards_ahead = shards_ahead
        self._arrays = arrays
        self._snapshot = first_snapshot(len(self._sources))
        self._skips = Skips()
        self._open: _Open | None = None
        self._stall = self._first = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches after the last one given; raises `RuntimeError` inside another loop."""
        if self._open:
            raise RuntimeError(
                "this stream is being iterated over already: leave that loop, or close() it"
            )
        opened = self._open = _Open(self)
        try:
            while (item := self._next(opened)) is not None:
                arrays, snapshot = item
                self._snapshot = snapshot
                yield self._batch(arrays)
        finally:
            opened.close()
            if self._open is opened:
                self._open = None

    def close(self) -> None:
        """End an open loop's threads; it gives no batch any more."""
        opened, self._open = self._open, None
        if opened:
            opened.close()

    def __enter__(self) -> "TokenStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def state(self) -> dict:
        """Return the state after the last batch given, ready for JSON.

        It does not depend on prefetching or the cache. With another world size the stream goes on
        at the next row of the global batches, so with equal `batch_size * world_size` these are
        the same.
        """
        return to_json(self._snapshot, self.config, self._sources)

    def load_state(self, state: Mapping | str) -> None:
        """Go on after a state, of this stream or one with the same shards and config.

        `batch_size`, `epochs`, `last_batch` and everything outside of the config may differ.
        Raises `StateError` otherwise.
        """
        self._must_be_closed()
        found = json.loads(state) if isinstance(state, str) else state
        self._snapshot = from_json(found, self.config, self._sources)

    def reset(self) -> None:
        """Begin anew, as for each evaluation on the same batches."""
        self._must_be_closed()
        self._snapshot = first_snapshot(len(self._sources))

    @property
    def stats(self) -> Stats:
        """The numbers so far."""
        cache = self._cache.stats if self._cache else CacheStats()
        return Stats(self._snapshot.counts, self._stall, self._first, cache)

    @property
    def skipped(self) -> list[SkippedRow]:
        """The rows that were skipped (`on_error="skip"`), each once, and at most the first 100.

        Those read ahead are among them; `stats.counts.skipped` and the state count them up to the
        last batch given.
        """
        return self._skips.rows

    def _must_be_closed(self) -> None:
        if self._open:
            raise RuntimeError("leave the loop over this stream, or close() it, before this")

    def _next(self, opened: "_Open") -> tuple[Arrays, Snapshot] | None:
        began = time.perf_counter()
        item = opened.next()
        waited = time.perf_counter() - began
        if opened.given == 1:
            self._first += waited
        else:
            self._stall += waited
        return item

    def _batch(self, made: Arrays) -> Batch:
        if self._arrays == "numpy":
            return Batch(made.inputs, made.targets, made.document_ids, made.rows)
        mx = _import_mlx()
        # Here, in the consumer's thread: MLX's streams are local to a thread.
        return Batch(
            mx.array(made.inputs), mx.array(made.targets), mx.array(made.document_ids), made.rows
        )


class _Open:
    """What runs while a loop is open: one generator of batches and its threads."""

    def __init__(self, stream: TokenStream):
        self.given = 0
        stop = self._stop = Stop()
        config = stream.config
        options = ReadOptions(config.column, config.bos_id, config.token_dtype)
        cache, threads = stream._cache, stream._shards_ahead
        self._ahead = ShardsAhead(cache, threads, stop) if cache and threads else None
        library = Library(cache, options, stop, self._ahead)
        arguments = (
            stream._sources,
            stream._encode,
            config,
            stream._share,
            library,
            threads,
            stream._skips,
        )
        snapshot = stream._snapshot

        def make(stop: Stop) -> Iterator[tuple[Arrays, Snapshot]]:
            return make_batches(*arguments, snapshot)

        self._thread = Ahead(make, stream._prefetch, stop) if stream._prefetch else None
        self._batches = self._thread or make(stop)

    def next(self) -> tuple[Arrays, Snapshot] | None:
        """Return the next batch and the snapshot after it; None at the end or when closed."""
        if self._stop.is_set():
            return None
        try:
            item = next(self._batches, None)
        except Stopped:  # closed by another thread, without a thread of its own
            item = None
        self.given += 1
        return item

    def close(self) -> None:
        """End the threads and close the files."""
        self._stop.set()
        if self._thread:
            self._thread.close()
        if self._ahead:
            self._ahead.close()
        self._batches = iter(())


def _import_mlx() -> Any:
    try:
        import mlx.core as mx
    except ImportError as error:
        raise ImportError(
            "arrays='mlx' needs MLX: pip install 'mlx-shards[cpu]' (or [cuda12], [cuda13]); or "
            "pass arrays='numpy'"
        ) from error
    return mx
