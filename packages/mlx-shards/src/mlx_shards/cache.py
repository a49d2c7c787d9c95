"""A folder of downloaded shards that stays within its bounds, whoever uses it.

Any number of threads and processes may share a folder. A shard is downloaded once, by whoever
comes first; a leased shard stays; the bounds hold at every moment, downloads in progress included.
Shards are told apart by address: two of one name get two files. Shards in here are `placed`: their
name is that of their file in this folder.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mlx_shards.disk import room_on_disk
from mlx_shards.download import Http, Partial, download
from mlx_shards.errors import CacheFull, CorruptShard, ShardError
from mlx_shards.lease import Lease, identity
from mlx_shards.ledger import Ledger
from mlx_shards.locks import Lock
from mlx_shards.shard import Shard, difference, parse_bytes, sha256_of
from mlx_shards.stop import Stop
from mlx_shards.tally import CacheStats, Tally

_POLL = 0.02  # seconds between looks at what another process does
_STEP = 8 << 20  # bytes of room taken at a time where the server does not say the size

Use = Literal["use", "ahead"]
TakeRoom = Callable[[int, dict], None]  # bytes, and the record of the download


class Cache:
    """Downloaded shards in `folder`, at most `max_bytes` (an int, or "20GB") and `max_files`.

    Only what was downloaded into the folder counts and may be deleted, least recently used first.
    Other files in it are used where their name is that of a shard, and never touched. What is in a
    folder that cannot be written is used, and nothing downloaded.
    `room_timeout` is how many seconds a lease waits while all shards in the way are in use.
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
        self.max_files = max_files
        self.http = http or Http()
        self._room_timeout = room_timeout
        self._ledger = Ledger(self.folder, parse_bytes(max_bytes), max_files)
        self._sizes: dict[str, int] = {}  # by address, as servers said
        self._foreign: dict[Path, Shard] = {}  # which shard a file stood for that is not ours
        self._tally = Tally()

    @property
    def stats(self) -> CacheStats:
        """The counts so far."""
        return self._tally.stats

    def lease(
        self,
        shard: Shard,
        stop: Stop | None = None,
        before_waiting: Callable[[], object] = lambda: None,
    ) -> Lease:
        """Return the shard, downloaded and checked, that stays until its lease is released.

        `before_waiting` is called before waiting for others, to release what they may wait for.
        Raises `DownloadError`, `CorruptShard` after a second try, `CacheFull`.
        """
        stop = stop or Stop()
        self._ledger.check_bound(shard.name, shard.size or 0)
        missed = False
        while True:
            with self._ledger.locked():
                placed = self._placed(shard)
                if found := self._present(placed, "use"):
                    self._tally.count(**{"misses" if missed else "hits": 1})
                    return found
                ours = self._begin(placed)
            missed = True
            if ours is None:  # another thread or process downloads it
                before_waiting()
                stop.wait(_POLL)
                continue

            def take_room(size: int, record: dict, placed: Shard = placed) -> None:
                self._wait_for_room(placed, size, record, stop, before_waiting)

            with ours:
                lease = self._download(placed, stop, take_room, "use")
            self._tally.count(misses=1)
            return lease

    def fetch_ahead(self, shard: Shard, stop: Stop | None = None) -> Lease | None:
        """Download the shard if there is room that nobody needs; return None if there is none.

        While it is held, the lease protects the shard from what others fetch ahead, but not from
        what they read now.
        """
        begin = self.claim_ahead(shard)
        return begin(stop or Stop()) if begin else None

    def claim_ahead(self, shard: Shard) -> Callable[[Stop], Lease | None] | None:
        """Take the room for `fetch_ahead`; return the function that then downloads.

        Apart from it because it is quick: threads can take room in the order of need.
        """
        ledger = self._ledger
        with ledger.locked():
            shard = self._placed(shard)
            if found := self._present(shard, "ahead"):
                return lambda stop: found
            ours = self._begin(shard) if ledger.is_writable else None
            if ours is None:
                return None
            # Where the size is not known yet: that of the largest file here is a good guess.
            size = shard.size or self._sizes.get(shard.address) or ledger.largest()
            with self._room_on_disk(shard, ours.release):
                plan = ledger.plan(shard.name) or {}
                gone = ledger.reserve(shard.name, size, plan, gentle=True)
        if gone is None:
            ours.release()
            return None
        self._tally.count(evictions=gone)

        def take_room(size: int, record: dict) -> None:
            if not self._reserve(shard, size, record, gentle=True):
                raise _NoRoom

        def begin(stop: Stop) -> Lease | None:
            with ours:
                try:
                    return self._download(shard, stop, take_room, "ahead")
                except _NoRoom:
                    return None

        return begin

    def reject(self, shard: Shard, lease: Lease) -> bool:
        """Put aside what was leased and could not be read; return whether to lease it again."""
        with self._ledger.locked():
            shard = self._placed(shard)
            if self._ledger.owned(shard.name) is None or not self._ledger.is_writable:
                return False
            path = self._ledger.path(shard.name)
            # Another process may have done so, and have downloaded it anew.
            if path.exists() and identity(path) == lease.identity:
                self._ledger.quarantine(shard.name)
        self._tally.count(corrupt=1)
        return True

    def _placed(self, shard: Shard) -> Shard:
        return replace(shard, name=self._ledger.name_for(shard))

    def _begin(self, shard: Shard) -> Lock | None:
        """Lock the shard to download it; None where another does so."""
        if not self._ledger.is_writable:
            raise ShardError(
                f"{shard.address} is not in {self.folder}, which cannot be written: use another "
                "cache folder, or fetch it there first"
            )
        with self._room_on_disk(shard, lambda: None):
            return self._ledger.begin(shard.name, shard.address)

    def _room_on_disk(
        self, shard: Shard, undo: Callable[[], object] | None = None
    ) -> AbstractContextManager[None]:
        """Give a part up where the disk is full: it would keep the disk full."""
        most = self._ledger.max_bytes
        return room_on_disk(
            self._ledger.part(shard.name),
            f"free some space, take another folder, or lower max_bytes ({most:,})",
            undo or (lambda: self._ledger.abandon(shard.name)),
        )

    def _present(self, shard: Shard, kind: Use) -> Lease | None:
        path = self._ledger.path(shard.name)
        if not path.exists():
            return None
        size = path.stat().st_size
        record = self._ledger.owned(shard.name)
        if record is None:
            if shard.size not in (None, size):
                raise ShardError(
                    f"{path} was not downloaded by this cache and has {size:,} bytes where "
                    f"{shard.address} has {shard.size:,}; move it away"
                )
            other = self._foreign.setdefault(path, shard)
            if other.address != shard.address and (other.sha256 or "") != shard.sha256:
                raise ShardError(
                    f"{path} was not downloaded by this cache, and may be {other.address} or "
                    f"{shard.address}; move it away"
                )
            return Lease(path, None)
        if record["size"] != size and not self._ledger.is_writable:
            raise CorruptShard(
                f"{path} has {size:,} bytes instead of {record['size']:,}, and {self.folder} "
                "cannot be written; use another cache folder"
            )
        if record["size"] != size:
            self._ledger.quarantine(shard.name)
            self._tally.count(corrupt=1)
            return None
        lock = self._ledger.lock(kind, shard.name)
        self._ledger.touch(shard.name)
        return Lease(path, lock)

    def _download(self, shard: Shard, stop: Stop, take_room: TakeRoom, kind: Use) -> Lease:
        """Download, check and install a shard whose download lock is held; once more if bad."""
        ledger = self._ledger
        for last in (False, True):
            with self._room_on_disk(shard):
                self._complete_part(shard, stop, take_room)
            part = ledger.part(shard.name)
            size, digest = part.stat().st_size, sha256_of(part)
            problem = difference(shard, size, digest)
            with ledger.locked():
                if problem is None:
                    record = {"location": shard.address, "size": size, "sha256": digest}
                    with self._room_on_disk(shard):
                        ledger.install(shard.name, record)
                    self._tally.count(downloads=1)
                    lease = self._present(shard, kind)
                    assert lease
                    return lease
                bad = ledger.quarantine(shard.name)
            self._tally.count(corrupt=1)
            if last:
                raise CorruptShard(
                    f"{shard.address}: {problem}, also after a second download; the second copy "
                    f"is {bad}"
                )
        raise AssertionError

    def _complete_part(self, shard: Shard, stop: Stop, take_room: TakeRoom) -> None:
        part = self._ledger.part(shard.name)
        plan = self._ledger.plan(shard.name) or {}
        taken, record = 0, {}

        def started(total: int | None, validator: str | None) -> None:
            nonlocal taken, record
            if shard.size is not None and total not in (None, shard.size):
                raise CorruptShard(
                    f"{shard.address} has {total:,} bytes on the server instead of {shard.size:,}"
                )
            record = {"location": shard.address, "validator": validator}
            self._sizes[shard.address] = total or 0
            taken = total or shard.size or min(_STEP, self._ledger.max_bytes)
            take_room(taken, record)

        def received(count: int, end: int) -> None:
            nonlocal taken
            self._tally.count(bytes_received=count)
            if end > taken:
                taken = max(end, min(end + _STEP, self._ledger.max_bytes))
                take_room(taken, record)

        hashed = shard.sha256 is not None
        partial = Partial(part, plan.get("validator"), hashed, hashed or shard.size is not None)
        download(shard.location, partial, self.http, stop, started, received)

    def _wait_for_room(
        self,
        shard: Shard,
        size: int,
        record: dict,
        stop: Stop,
        before_waiting: Callable[[], object],
    ) -> None:
        until = time.monotonic() + self._room_timeout
        while not self._reserve(shard, size, record, gentle=False):
            if time.monotonic() > until:
                raise CacheFull(
                    f"no room for {shard.name} ({size:,} bytes): all shards in {self.folder} "
                    f"are in use, for {self._room_timeout:g} s by now; raise max_bytes "
                    f"({self._ledger.max_bytes:,}) or max_files ({self.max_files})"
                )
            before_waiting()
            stop.wait(_POLL)

    def _reserve(self, shard: Shard, size: int, record: dict, gentle: bool) -> bool:
        with self._ledger.locked():
            gone = self._ledger.reserve(shard.name, size, record, gentle)
        self._tally.count(evictions=gone or 0)
        return gone is not None


class _NoRoom(Exception):
    """A shard to be fetched ahead finds no room at this moment."""
