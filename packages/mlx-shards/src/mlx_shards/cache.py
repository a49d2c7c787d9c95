"""A folder of downloaded shards with bounds on bytes and files.

Any number of threads and processes may share a folder. Each shard is downloaded once; a leased
shard is not deleted; the bounds always hold, downloads in progress included. Two shards of the same
name but different addresses get two files. A `placed` shard is named after its file in this folder.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from mlx_shards.cache_index import CacheIndex
from mlx_shards.download import Download, Http
from mlx_shards.shard import (
    CacheFull,
    CorruptShard,
    Shard,
    ShardError,
    explain_disk_errors,
    find_mismatch,
    parse_bytes,
    sha256_of,
)
from mlx_shards.sync import Lease, Lock, Stop, file_identity

_POLL = 0.02  # seconds between checks of other processes
_STEP = 8 << 20  # bytes reserved at a time if the server does not state the size

Use = Literal["use", "ahead"]
Callback = Callable[[], object]
Reserve = Callable[[int, dict], None]  # bytes, and the record of the download


@dataclass(frozen=True)
class CacheStats:
    """Counts of one cache object; `misses` are the leases that waited for a download."""

    hits: int = 0
    misses: int = 0
    downloads: int = 0
    bytes_received: int = 0
    evictions: int = 0
    corrupt: int = 0


class Cache:
    """Downloaded shards in `folder`, at most `max_bytes` (an int, or "20GB") and `max_files`.

    Only downloaded files count and may be deleted, least recently used first. Other files in the
    folder are used if they have the name of a shard, and never deleted. A read-only folder is used
    without downloading. A lease waits at most `room_timeout` seconds while all shards are in use.
    """

    def __init__(
        self,
        folder: str | Path,
        max_bytes: int | str,
        max_files: int | None = None,
        http: Http | None = None,
        room_timeout: float = 600.0,
    ):
        if max_files is not None and max_files < 1:
            raise ValueError(f"max_files must be at least 1, got {max_files}")
        self.folder = Path(folder).expanduser()
        self.http = http or Http()
        self.stats = CacheStats()
        self._room_timeout = room_timeout
        self._index = CacheIndex(self.folder, parse_bytes(max_bytes), max_files)
        self._sizes: dict[str, int] = {}  # by address, from servers
        self._foreign: dict[Path, Shard] = {}  # the shard that a foreign file was used as
        self._stats_lock = threading.Lock()

    def lease(
        self,
        shard: Shard,
        stop: Stop | None = None,
        before_waiting: Callback = lambda: None,
    ) -> Lease:
        """Return a lease of the shard, downloaded and checked; it is not deleted before release.

        `before_waiting` is called before waiting for others, to release files they may wait for.
        Raises `DownloadError`, `CorruptShard` (after a second download) or `CacheFull`.
        """
        stop = stop or Stop()
        self._index.check_bound(shard.name, shard.size or 0)
        missed = False
        while True:
            with self._index.locked():
                placed = self._index.place(shard)
                if lease := self._find(placed, "use"):
                    self._count(**{"misses" if missed else "hits": 1})
                    return lease
                lock = self._begin(placed)
            if lock:
                reserve = partial(self._wait_for_room, placed, stop, before_waiting)
                with lock:
                    lease = self._download(placed, stop, reserve, "use")
                self._count(misses=1)
                return lease
            missed = True  # another thread or process is downloading it
            before_waiting()
            stop.wait(_POLL)

    def claim_ahead(self, shard: Shard) -> Callable[[Stop], Lease | None] | None:
        """Reserve room to download ahead, and return the function that downloads.

        Both return None if files in use leave no room. The lease protects the shard from other
        downloads ahead; `lease` may still evict it. Reserving is fast, so that threads can reserve
        in the order in which shards are needed.
        """
        index = self._index
        with index.locked():
            shard = index.place(shard)
            if lease := self._find(shard, "ahead"):
                return lambda stop: lease
            lock = self._begin(shard) if index.is_writable else None
            if lock is None:
                return None
            # Guess an unknown size: that of the largest file here.
            size = shard.size or self._sizes.get(shard.address) or index.largest()
            with self._explain_disk_errors(shard, lock.release):
                plan = index.record("plan", shard.name) or {}
                evicted = index.reserve(shard.name, size, plan, keep_ahead=True)
        if evicted is None:
            lock.release()
            return None
        self._count(evictions=evicted)

        def reserve(size: int, record: dict) -> None:
            if not self._reserve(shard, size, record, keep_ahead=True):
                raise _NoRoom

        def download(stop: Stop) -> Lease | None:
            with lock, suppress(_NoRoom):
                return self._download(shard, stop, reserve, "ahead")
            return None

        return download

    def reject(self, shard: Shard, lease: Lease) -> bool:
        """Quarantine a leased shard that could not be read; return whether to lease it again."""
        with self._index.locked():
            shard = self._index.place(shard)
            if self._index.record("owned", shard.name) is None or not self._index.is_writable:
                return False
            path = self.folder / shard.name
            # Another process may have rejected and replaced it.
            if path.exists() and file_identity(path) == lease.identity:
                self._index.quarantine(shard.name)
        self._count(corrupt=1)
        return True

    def _begin(self, shard: Shard) -> Lock | None:
        """Lock the shard for downloading; None if another process or thread is downloading it."""
        if not self._index.is_writable:
            raise ShardError(
                f"{shard.address} is not in {self.folder}, which cannot be written: use another "
                "cache folder, or fetch it there first"
            )
        with self._explain_disk_errors(shard, lambda: None):
            return self._index.begin(shard.name, shard.address)

    def _explain_disk_errors(
        self, shard: Shard, undo: Callback | None = None
    ) -> AbstractContextManager[None]:
        """Delete the partial download if the disk is full, to free space."""
        return explain_disk_errors(
            self._index.file("part", shard.name),
            f"free some space, take another folder, or lower max_bytes ({self._index.max_bytes:,})",
            undo or (lambda: self._index.abandon(shard.name)),
        )

    def _find(self, shard: Shard, kind: Use) -> Lease | None:
        path = self.folder / shard.name
        if not path.exists():
            return None
        size = path.stat().st_size
        record = self._index.record("owned", shard.name)
        if record is None:
            self._check_foreign(path, size, shard)
            return Lease(path, None)
        if record["size"] != size:
            if not self._index.is_writable:
                raise CorruptShard(
                    f"{path} has {size:,} bytes instead of {record['size']:,}, and {self.folder} "
                    "cannot be written; use another cache folder"
                )
            self._index.quarantine(shard.name)
            self._count(corrupt=1)
            return None
        lock = self._index.lock(kind, shard.name)
        self._index.touch(shard.name)
        return Lease(path, lock)

    def _check_foreign(self, path: Path, size: int, shard: Shard) -> None:
        if shard.size not in (None, size):
            raise ShardError(
                f"{path} was not downloaded by this cache and has {size:,} bytes, but "
                f"{shard.address} has {shard.size:,}; move it away"
            )
        other = self._foreign.setdefault(path, shard)
        if other.address != shard.address and (other.sha256 or "") != shard.sha256:
            raise ShardError(
                f"{path} was not downloaded by this cache, and may be {other.address} or "
                f"{shard.address}; move it away"
            )

    def _download(self, shard: Shard, stop: Stop, reserve: Reserve, kind: Use) -> Lease:
        """Download, check and install a shard whose download lock is held; retry once if bad."""
        index = self._index
        mismatch = bad = None
        for _ in range(2):
            with self._explain_disk_errors(shard):
                self._complete_part(shard, stop, reserve)
            part = index.file("part", shard.name)
            size, digest = part.stat().st_size, sha256_of(part)
            mismatch = find_mismatch(shard, size, digest)
            with index.locked():
                if mismatch is None:
                    record = {"location": shard.address, "size": size, "sha256": digest}
                    with self._explain_disk_errors(shard):
                        index.install(shard.name, record)
                    self._count(downloads=1)
                    lease = self._find(shard, kind)
                    assert lease
                    return lease
                bad = index.quarantine(shard.name)
            self._count(corrupt=1)
        raise CorruptShard(
            f"{shard.address}: {mismatch}, also after a second download; the second copy is {bad}"
        )

    def _complete_part(self, shard: Shard, stop: Stop, reserve: Reserve) -> None:
        plan = self._index.record("plan", shard.name) or {}
        reserved, record = 0, {}

        def started(total: int | None, validator: str | None) -> None:
            nonlocal reserved, record
            if shard.size is not None and total not in (None, shard.size):
                raise CorruptShard(
                    f"{shard.address} has {total:,} bytes on the server instead of {shard.size:,}"
                )
            record = {"location": shard.address, "validator": validator}
            self._sizes[shard.address] = total or 0
            reserved = total or shard.size or min(_STEP, self._index.max_bytes)
            reserve(reserved, record)

        def received(count: int, end: int) -> None:
            nonlocal reserved
            self._count(bytes_received=count)
            if end > reserved:
                reserved = max(end, min(end + _STEP, self._index.max_bytes))
                reserve(reserved, record)

        Download(
            shard.location,
            self._index.file("part", shard.name),
            self.http,
            stop,
            started,
            received,
            validator=plan.get("validator"),
            hash_known=shard.sha256 is not None,
            size_known=shard.size is not None,
        ).run()

    def _wait_for_room(
        self, shard: Shard, stop: Stop, before_waiting: Callback, size: int, record: dict
    ) -> None:
        until = time.monotonic() + self._room_timeout
        while not self._reserve(shard, size, record, keep_ahead=False):
            if time.monotonic() > until:
                raise CacheFull(
                    f"no room for {shard.name} ({size:,} bytes): all shards in {self.folder} "
                    f"have been in use for {self._room_timeout:g} s; raise max_bytes "
                    f"({self._index.max_bytes:,}) or max_files ({self._index.max_files})"
                )
            before_waiting()
            stop.wait(_POLL)

    def _reserve(self, shard: Shard, size: int, record: dict, keep_ahead: bool) -> bool:
        with self._index.locked():
            evicted = self._index.reserve(shard.name, size, record, keep_ahead)
        self._count(evictions=evicted or 0)
        return evicted is not None

    def _count(self, **increments: int) -> None:
        with self._stats_lock:
            sums = {name: getattr(self.stats, name) + n for name, n in increments.items()}
            self.stats = replace(self.stats, **sums)


class _NoRoom(Exception):
    """The cache has no room now to download a shard ahead."""
