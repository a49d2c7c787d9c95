"""Work ahead in bounded threads: batches in one, downloads of shards in others."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from mlx_shards.cache import Cache
from mlx_shards.errors import DiskFull
from mlx_shards.lease import Lease
from mlx_shards.shard import Shard
from mlx_shards.stop import Stop, Stopped

T = TypeVar("T")

_RETRY = 0.1  # seconds between looks for room in the cache


class Ahead(Generic[T]):
    """The items of an iterator, made by a thread that is at most `depth` items ahead.

    An error of the iterator is raised where its item would have come. `make(stop)` is called, and
    its iterator closed, inside the thread.
    """

    def __init__(self, make: Callable[[Stop], Iterator[T]], depth: int, stop: Stop):
        self._depth = depth
        self._stop = stop
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(
            target=self._work, args=(make,), name="mlx-shards-batches", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            while not self._ready and not self._ended:
                self._changed.wait()
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
        if self._error:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        """End the thread and wait for its end."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def _work(self, make: Callable[[Stop], Iterator[T]]) -> None:
        try:
            for item in make(self._stop):
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
                    while len(self._ready) >= self._depth and not self._stop.is_set():
                        self._changed.wait()
                self._stop.check()
        except Stopped:
            pass
        except BaseException as error:  # the consumer raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


class ShardsAhead:
    """Threads that download the shards named by `expect` while there is room in the cache."""

    def __init__(self, cache: Cache, threads: int, stop: Stop):
        self._cache = cache
        self._stop = stop
        self._current: dict[int, str] = {}  # addresses, as are the keys below
        self._coming: dict[int, list[Shard]] = {}
        self._leases: dict[str, Lease] = {}
        self._busy: set[str] = set()
        self._errors: dict[str, Exception] = {}
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"mlx-shards-fetch-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def expect(self, owner: int, current: Shard, coming: Sequence[Shard]) -> None:
        """Set what a reader reads now, and what it will need next and should be fetched."""
        with self._changed:
            self._current[owner] = current.address
            self._coming[owner] = list(coming)
            for address in [each for each in self._leases if not self._is_needed(each)]:
                self._leases.pop(address).release()
            self._changed.notify_all()

    def settle(self, shard: Shard) -> None:
        """Wait while a thread downloads the shard; raise what went wrong with it, once."""
        with self._changed:
            while shard.address in self._busy and not self._stop.is_set():
                self._changed.wait()
            error = self._errors.pop(shard.address, None)
            # A full disk may have room by now: the reader tries for itself.
            if error and not isinstance(error, DiskFull):
                raise error

    def close(self) -> None:
        """End the threads; what they downloaded stays, and is no longer protected."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                shard = self._next()
                if shard is None:
                    self._changed.wait()
                    continue
                # Still inside the lock, so that room is taken in the order of need.
                begin = self._claim(shard)
                if begin is None:
                    self._changed.wait(_RETRY)
                    continue
                self._busy.add(shard.address)
            self._fetch(shard, begin)
            with self._changed:
                self._busy.discard(shard.address)
                self._changed.notify_all()

    def _next(self) -> Shard | None:
        done = (self._leases, self._busy, self._errors)
        # Round by round, so that each source gets its next shard before any gets its second.
        for place in range(max(map(len, self._coming.values()), default=0)):
            for coming in self._coming.values():
                if place < len(coming) and not any(coming[place].address in each for each in done):
                    return coming[place]
        return None

    def _is_needed(self, address: str) -> bool:
        if address in self._current.values():
            return True
        return any(address == shard.address for coming in self._coming.values() for shard in coming)

    def _claim(self, shard: Shard) -> Callable[[Stop], Lease | None] | None:
        try:
            return self._cache.claim_ahead(shard)
        except Exception as error:
            self._errors[shard.address] = error
            return None

    def _fetch(self, shard: Shard, begin: Callable[[Stop], Lease | None]) -> None:
        try:
            lease = begin(self._stop)
        except Stopped:
            return
        except Exception as error:  # the reader raises it when it comes to this shard
            with self._changed:
                self._errors[shard.address] = error
            return
        with self._changed:
            if lease and self._is_needed(shard.address) and not self._stop.is_set():
                self._leases[shard.address] = lease
            elif lease:
                lease.release()
            else:  # it turned out larger than the room that was taken
                self._changed.wait(_RETRY)
