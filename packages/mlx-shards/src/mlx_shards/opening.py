"""An open shard that heals: unreadable bytes from the cache are downloaded once more."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np

from mlx_shards import readers as readers  # registers the formats
from mlx_shards.cache import Cache
from mlx_shards.errors import CorruptShard, RowError, ShardError
from mlx_shards.formats import BadRow, Document, Reader, ReadOptions, open_reader
from mlx_shards.ids import as_ids
from mlx_shards.lease import Lease
from mlx_shards.prefetch import ShardsAhead
from mlx_shards.shard import Shard
from mlx_shards.stop import Stop

T = TypeVar("T")
OnError = Literal["raise", "skip"]


class Library:
    """Opens shards: local ones where they are, others through the cache."""

    def __init__(
        self,
        cache: Cache | None,
        options: ReadOptions,
        stop: Stop,
        ahead: ShardsAhead | None = None,
    ):
        self._cache = cache
        self._options = options
        self._stop = stop
        self._ahead = ahead
        self._open: list[OpenShard] = []
        self._rejected: set[str] = set()

    def open(self, shard: Shard) -> "OpenShard":
        """Return the shard; nothing is read before the first call of one of its methods."""
        opened = OpenShard(self, shard)
        self._open.append(opened)
        return opened

    def expect(self, owner: int, current: Shard, coming: Sequence[Shard]) -> None:
        """Source `owner` reads one shard now: fetch others as far as there is room."""
        if self._ahead:
            self._ahead.expect(owner, current, [s for s in coming if s.local_path is None])

    def check(self) -> None:
        """Raise `Stopped` where the stream was closed: called between pieces of work."""
        self._stop.check()

    def obtain(self, shard: Shard) -> tuple[Reader, Lease | None]:
        """Open a reader, by a lease where the shard is in the cache."""
        self._stop.check()
        if shard.local_path is not None:
            return open_reader(shard.local_path, shard.name, self._options), None
        if self._cache is None:
            raise ValueError(f"{shard.address} must be downloaded: pass cache=Cache(...)")
        if self._ahead:
            self._ahead.settle(shard)
        lease = self._cache.lease(shard, self._stop, self.let_go)
        try:
            return open_reader(lease.path, shard.name, self._options), lease
        except CorruptShard as error:
            lease.release()
            raise _Unreadable(lease) from error
        except BaseException:
            lease.release()
            raise

    def reject(self, shard: Shard, lease: Lease | None) -> bool:
        """Put an unreadable shard aside; return whether another download may help."""
        return lease is not None and self._cache is not None and self._cache.reject(shard, lease)

    def reject_rows(self, shard: Shard, lease: Lease | None) -> bool:
        """The same for damaged rows, and only once: they may be so on the server."""
        if shard.address in self._rejected:
            return False
        self._rejected.add(shard.address)
        return self.reject(shard, lease)

    def let_go(self) -> None:
        """Close what is open, to be opened again when needed: who waits holds nothing.

        Otherwise two mixtures could each hold what the other waits for.
        """
        for each in self._open:
            each.pause()

    def forget(self, opened: "OpenShard") -> None:
        """Take it off the list of what is open."""
        self._open.remove(opened)


class OpenShard:
    """One shard while its documents are read."""

    def __init__(self, library: Library, shard: Shard):
        self.shard = shard
        self._library = library
        self._reader: Reader | None = None
        self._lease: Lease | None = None
        self._sizes: list[int] | None = None
        self._row: Callable[[int], str] = _row

    @property
    def sizes(self) -> list[int]:
        """Numbers of documents of the blocks."""
        if self._sizes is None:
            self._sizes = self._healing(lambda reader: list(reader.sizes))
            found, rows = sum(self._sizes), self.shard.rows
            if rows not in (None, found):
                raise ShardError(f"{self.shard.address} holds {found} documents, not {rows}")
        return self._sizes

    def read(self, block: int, on_error: OnError = "raise") -> Sequence[Document]:
        """Return the documents of a block; to be skipped, all of one that cannot be read."""
        try:
            documents = self._healing(lambda reader: reader.read(block))
            damaged = any(isinstance(each, BadRow) and each.damaged for each in documents)
            if damaged and self._library.reject_rows(self.shard, self._lease):
                self.pause()
                documents = self._healing(lambda reader: reader.read(block))
        except CorruptShard as error:
            if on_error == "raise":
                raise
            return [BadRow(str(error), cause=error)] * self.sizes[block]
        if len(documents) != self.sizes[block]:
            raise ShardError(
                f"{self.shard.address} changed: block {block} holds {len(documents)} documents "
                f"instead of {self.sizes[block]}"
            )
        return documents

    def rows(self, on_error: OnError = "raise") -> Iterator[str | np.ndarray | ShardError]:
        """Yield all documents in order; token ids as int32, and what is wrong with a bad row."""
        number = 0
        for block in range(len(self.sizes)):
            for document in self.read(block, on_error):
                found = checked(document) if isinstance(document, np.ndarray) else document
                yield self.error_of(number, found) if isinstance(found, BadRow) else found
                number += 1

    def error_of(self, document: int, bad: BadRow) -> ShardError:
        """Return what to raise for a bad row."""
        kind = CorruptShard if bad.damaged else RowError
        error = kind(f"{self.shard.address}: {self._row(document)}: {bad.reason}")
        error.__cause__ = bad.cause
        return error

    def pause(self) -> None:
        """Close the file; the next read opens it again."""
        reader, self._reader = self._reader, None
        lease, self._lease = self._lease, None
        if reader:
            reader.close()
        if lease:
            lease.release()

    def close(self) -> None:
        """Close the file for good."""
        self.pause()
        self._library.forget(self)

    def _healing(self, use: Callable[[Reader], T]) -> T:
        for last in (False, True):
            try:
                if self._reader is None:
                    self._reader, self._lease = self._library.obtain(self.shard)
                    self._row = getattr(self._reader, "row", _row)
                return use(self._reader)
            except (CorruptShard, _Unreadable) as error:
                lease = error.lease if isinstance(error, _Unreadable) else self._lease
                self.pause()
                if last or not self._library.reject(self.shard, lease):
                    raise _told(self.shard, error, repeated=last) from error
        raise AssertionError


def checked(tokens: np.ndarray | Sequence[int]) -> np.ndarray | BadRow:
    """Return token ids as int32, or why they are none."""
    try:
        return as_ids(tokens)
    except ValueError as error:
        return BadRow(str(error))


def _row(document: int) -> str:
    return f"row {document + 1}"


class _Unreadable(Exception):
    """What was leased could not be opened."""

    def __init__(self, lease: Lease):
        self.lease = lease


def _told(shard: Shard, error: Exception, repeated: bool) -> CorruptShard:
    cause = error.__cause__ if isinstance(error, _Unreadable) else error
    if shard.local_path is not None:
        return CorruptShard(str(cause))
    also = ", also after a new download" if repeated else ""
    return CorruptShard(f"{shard.address} cannot be read{also}: {cause}")
