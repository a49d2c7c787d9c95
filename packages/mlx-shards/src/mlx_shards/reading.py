"""Read shards, local ones in place, others through the cache; handle bad rows and damaged files."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from mlx_shards.cache import Cache
from mlx_shards.formats import BadRow, Document, Reader, ReadOptions, open_reader
from mlx_shards.prefetch import ShardPrefetcher
from mlx_shards.shard import CorruptShard, RowError, Shard, ShardError
from mlx_shards.sync import Lease, Stop
from mlx_shards.tokens import as_ids

T = TypeVar("T")
OnError = Literal["raise", "skip"]

_MOST_SKIPPED = 100  # rows that are kept and logged

_log = logging.getLogger("mlx_shards")


@dataclass(frozen=True)
class SkippedRow:
    """An unusable row; `document` counts from 0 in the shard."""

    shard: Shard
    document: int
    reason: str


class SkippedRows:
    """The first rows that a stream skipped, each once over all epochs."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], SkippedRow] = {}

    @property
    def rows(self) -> list[SkippedRow]:
        """The rows in the order of reading."""
        return list(self._rows.values())

    def add(self, shard: Shard, document: int, reason: str) -> None:
        """Log and store a skipped row."""
        key = (shard.address, document)
        if key in self._rows or len(self._rows) == _MOST_SKIPPED:
            return
        self._rows[key] = SkippedRow(shard, document, reason)
        _log.warning("skipped a row: %s", reason)
        if len(self._rows) == _MOST_SKIPPED:
            _log.warning("more skipped rows are counted, but not logged")


class Opener:
    """Opens the shards of one stream."""

    def __init__(
        self,
        cache: Cache | None = None,
        options: ReadOptions | None = None,
        stop: Stop | None = None,
        prefetcher: ShardPrefetcher | None = None,
    ):
        self._cache = cache
        self.options = options or ReadOptions()
        self.stop = stop or Stop()
        self.prefetcher = prefetcher
        self._open: list[OpenShard] = []
        self._rejected: set[str] = set()

    @contextmanager
    def open(self, shard: Shard) -> "Iterator[OpenShard]":
        """Yield the shard for a `with` block; the first read opens the file."""
        opened = OpenShard(self, shard)
        self._open.append(opened)
        try:
            yield opened
        finally:
            opened.pause()
            self._open.remove(opened)

    def lease(self, shard: Shard) -> Lease | None:
        """Lease a remote shard from the cache; None for a local one."""
        self.stop.check()
        if shard.local_path is not None:
            return None
        if self._cache is None:
            raise ValueError(f"{shard.address} must be downloaded: pass cache=Cache(...)")
        if self.prefetcher:
            self.prefetcher.wait_for(shard)
        return self._cache.lease(shard, self.stop, self.pause_all)

    def reject(self, shard: Shard, lease: Lease | None) -> bool:
        """Quarantine an unreadable shard; return whether downloading it again may help."""
        return lease is not None and self._cache is not None and self._cache.reject(shard, lease)

    def reject_rows(self, shard: Shard, lease: Lease | None) -> bool:
        """Do the same for damaged rows, but only once: they may be damaged on the server."""
        if shard.address in self._rejected:
            return False
        self._rejected.add(shard.address)
        return self.reject(shard, lease)

    def pause_all(self) -> None:
        """Close all files before waiting; the next read reopens them.

        Otherwise two mixtures could deadlock, each waiting for a file of the other.
        """
        for opened in self._open:
            opened.pause()


class OpenShard:
    """A shard that is being read; a damaged one from the cache is downloaded once more."""

    def __init__(self, opener: Opener, shard: Shard):
        self.shard = shard
        self._opener = opener
        self._reader: Reader | None = None
        self._lease: Lease | None = None
        self._sizes: list[int] | None = None
        self._row: Callable[[int], str] = _row

    @property
    def sizes(self) -> list[int]:
        """The number of documents in each block."""
        if self._sizes is None:
            self._sizes = self._repair(lambda reader: list(reader.sizes))
            found, rows = sum(self._sizes), self.shard.rows
            if rows not in (None, found):
                raise ShardError(f"{self.shard.address} has {found} documents, not {rows}")
        return self._sizes

    def read(self, block: int, on_error: OnError = "raise") -> Sequence[Document]:
        """Return the documents of a block, or `BadRow`s if it is unreadable and errors skipped."""
        try:
            documents = self._repair(lambda reader: reader.read(block))
            damaged = any(isinstance(each, BadRow) and each.damaged for each in documents)
            if damaged and self._opener.reject_rows(self.shard, self._lease):
                self.pause()
                documents = self._repair(lambda reader: reader.read(block))
        except CorruptShard as error:
            if on_error == "raise":
                raise
            return [BadRow(str(error), cause=error)] * self.sizes[block]
        if len(documents) != self.sizes[block]:
            raise ShardError(
                f"{self.shard.address} changed: block {block} has {len(documents)} documents "
                f"instead of {self.sizes[block]}"
            )
        return documents

    def rows(self, on_error: OnError = "raise") -> Iterator[str | np.ndarray | ShardError]:
        """Yield all documents in order: texts, token ids as int32, the error of a bad row."""
        number = 0
        for block in range(len(self.sizes)):
            for document in self.read(block, on_error):
                row = check_ids(document) if isinstance(document, np.ndarray) else document
                yield self.error_of(number, row) if isinstance(row, BadRow) else row
                number += 1

    def error_of(self, document: int, bad: BadRow) -> ShardError:
        """Return the error of a bad row, ready to raise."""
        kind = CorruptShard if bad.damaged else RowError
        error = kind(f"{self.shard.address}: {self._row(document)}: {bad.reason}")
        error.__cause__ = bad.cause
        return error

    def pause(self) -> None:
        """Close the file; the next read reopens it."""
        reader, self._reader = self._reader, None
        lease, self._lease = self._lease, None
        if reader:
            reader.close()
        if lease:
            lease.release()

    def _repair(self, use: Callable[[Reader], T]) -> T:
        """Call `use` with the reader; download a damaged shard again, once."""
        for is_last in (False, True):
            try:
                return use(self._open_reader() if self._reader is None else self._reader)
            except CorruptShard as error:
                lease = self._lease
                self.pause()
                if not is_last and self._opener.reject(self.shard, lease):
                    continue
                if self.shard.local_path is not None:
                    raise
                again = ", also after a new download" if is_last else ""
                raise CorruptShard(
                    f"{self.shard.address} cannot be read{again}: {error}"
                ) from error
        raise AssertionError

    def _open_reader(self) -> Reader:
        self._lease = self._opener.lease(self.shard)
        path = self._lease.path if self._lease else self.shard.local_path
        assert path
        self._reader = open_reader(path, self.shard.name, self._opener.options)
        self._row = getattr(self._reader, "row", _row)
        return self._reader


def check_ids(tokens: np.ndarray | Sequence[int]) -> np.ndarray | BadRow:
    """Return token ids as int32, or the reason why they are invalid."""
    try:
        return as_ids(tokens)
    except ValueError as error:
        return BadRow(str(error))


def _row(document: int) -> str:
    return f"row {document + 1}"
