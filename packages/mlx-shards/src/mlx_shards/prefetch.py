"""Prefetching in background threads: one makes batches, others download shards."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mlx_shards.shard import DiskFull, Shard
from mlx_shards.sync import Lease, Stop, Stopped

T = TypeVar("T")
StartDownload = Callable[[Stop], Lease | None]

_RETRY = 0.1  # seconds between checks for room in the cache


class BackgroundIterator(Iterator[T]):
    """The items of an iterator, computed by a thread at most `depth` items ahead.

    An error of the iterator is raised instead of its item. The thread creates the iterator with
    `make` and closes it.
    """

    def __init__(self, make: Callable[[], Iterator[T]], depth: int, stop: Stop):
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
        """Stop the thread and join it."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def _work(self, make: Callable[[], Iterator[T]]) -> None:
        try:
            for item in make():
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


class ShardPrefetcher:
    """Threads that download upcoming shards while the cache has room; see `Cache.claim_ahead`."""

    def __init__(
        self, claim_ahead: Callable[[Shard], StartDownload | None], threads: int, stop: Stop
    ):
        self._claim_ahead = claim_ahead
        self._stop = stop
        self._current: dict[int, str] = {}  # address, by source
        self._upcoming: dict[int, list[Shard]] = {}  # by source
        self._leases: dict[str, Lease] = {}  # by address
        self._busy: set[str] = set()  # addresses
        self._errors: dict[str, Exception] = {}  # by address
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"mlx-shards-fetch-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def announce(self, source: int, current: Shard, upcoming: Sequence[Shard]) -> None:
        """Set the shard that a source is reading, and the next ones."""
        with self._changed:
            self._current[source] = current.address
            self._upcoming[source] = [each for each in upcoming if each.local_path is None]
            for address in [each for each in self._leases if not self._is_needed(each)]:
                self._leases.pop(address).release()
            self._changed.notify_all()

    def wait_for(self, shard: Shard) -> None:
        """Wait while a thread downloads the shard; raise the error of that download, once."""
        with self._changed:
            while shard.address in self._busy and not self._stop.is_set():
                self._changed.wait()
            error = self._errors.pop(shard.address, None)
            # A full disk may have room by now: the reader retries.
            if error and not isinstance(error, DiskFull):
                raise error

    def close(self) -> None:
        """Stop the threads and release their leases."""
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
                # Still inside the lock, so that threads reserve room for the next shards first.
                download = self._claim(shard)
                if download is None:
                    self._changed.wait(_RETRY)
                    continue
                self._busy.add(shard.address)
            self._download(shard, download)
            with self._changed:
                self._busy.discard(shard.address)
                self._changed.notify_all()

    def _next(self) -> Shard | None:
        done = (self._leases, self._busy, self._errors)
        # Round robin: each source gets its next shard before any gets its second.
        for index in range(max(map(len, self._upcoming.values()), default=0)):
            for shards in self._upcoming.values():
                if index < len(shards) and not any(shards[index].address in each for each in done):
                    return shards[index]
        return None

    def _is_needed(self, address: str) -> bool:
        upcoming = (shard.address for shards in self._upcoming.values() for shard in shards)
        return address in self._current.values() or address in upcoming

    def _claim(self, shard: Shard) -> StartDownload | None:
        try:
            return self._claim_ahead(shard)
        except Exception as error:
            self._errors[shard.address] = error
            return None

    def _download(self, shard: Shard, download: StartDownload) -> None:
        try:
            lease = download(self._stop)
        except Stopped:
            return
        except Exception as error:  # the reader raises it when it reaches this shard
            with self._changed:
                self._errors[shard.address] = error
            return
        with self._changed:
            if lease and self._is_needed(shard.address) and not self._stop.is_set():
                self._leases[shard.address] = lease
            elif lease:
                lease.release()
            else:  # the shard was larger than the reserved room
                self._changed.wait(_RETRY)
