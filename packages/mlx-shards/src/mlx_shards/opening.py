"""An open shard that heals: unreadable bytes from the cache are downloaded once more."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from mlx_shards import readers as readers  # registers the formats
from mlx_shards.cache import Cache
from mlx_shards.errors import CorruptShard, ShardError
from mlx_shards.formats import Reader, ReadOptions, open_reader
from mlx_shards.lease import Lease
from mlx_shards.prefetch import ShardsAhead
from mlx_shards.shard import Shard
from mlx_shards.stop import Stop

T = TypeVar("T")


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
            raise ValueError(f"shard {shard.name} must be downloaded: pass cache=Cache(...)")
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

    @property
    def sizes(self) -> list[int]:
        """Numbers of documents of the blocks."""
        if self._sizes is None:
            self._sizes = self._healing(lambda reader: list(reader.sizes))
            found, rows = sum(self._sizes), self.shard.rows
            if rows not in (None, found):
                raise ShardError(f"shard {self.shard.name} holds {found} documents, not {rows}")
        return self._sizes

    def read(self, block: int) -> Sequence[str] | Sequence[np.ndarray]:
        """Return the documents of a block."""
        documents = self._healing(lambda reader: reader.read(block))
        if len(documents) != self.sizes[block]:
            raise ShardError(
                f"shard {self.shard.name} changed: block {block} holds {len(documents)} "
                f"documents instead of {self.sizes[block]}"
            )
        return documents

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
                return use(self._reader)
            except (CorruptShard, _Unreadable) as error:
                lease = error.lease if isinstance(error, _Unreadable) else self._lease
                self.pause()
                if last or not self._library.reject(self.shard, lease):
                    raise _told(self.shard, error, repeated=last) from error
        raise AssertionError


class _Unreadable(Exception):
    """What was leased could not be opened."""

    def __init__(self, lease: Lease):
        self.lease = lease


def _told(shard: Shard, error: Exception, repeated: bool) -> CorruptShard:
    cause = error.__cause__ if isinstance(error, _Unreadable) else error
    if shard.local_path is not None:
        return CorruptShard(str(cause))
    also = ", also after a new download" if repeated else ""
    return CorruptShard(f"{shard.location} cannot be read{also}: {cause}")
