"""What a cache folder holds, and what of it may go: the only module that deletes.

    <folder>/<name>                     a shard
    <folder>/<hash>/<name>              a shard whose name another one has
    <folder>/.mlx-shards/owned/<key>    JSON: that this shard was downloaded, from where
    <folder>/.mlx-shards/part/<key>     a download in progress, or what a killed one left
    <folder>/.mlx-shards/plan/<key>     JSON: the room taken for it, its URL and its validator
    <folder>/.mlx-shards/bad/<key>      a file that failed its check
    <folder>/.mlx-shards/{use,ahead,download}/<key>   locks; see `locks`

A file without its record in `owned` is nobody's to delete, and does not count. A folder that
cannot be written is read as it is: nothing in it can go, so there is nothing to lock or record.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from mlx_shards.disk import is_read_only
from mlx_shards.errors import CacheFull
from mlx_shards.locks import Lock, try_lock, try_lock_unwritable, wait_for_lock
from mlx_shards.records import can_write, is_of, key_of, read_json, write_json
from mlx_shards.shard import Shard

_FOLDERS = ("owned", "part", "plan", "bad", "use", "ahead", "download")
_EVICTION_ORDER = ("bad", "part", "shard")


@dataclass(frozen=True)
class Entry:
    """One file that counts: how large it is or will be, and when it was last used."""

    key: str
    kind: Literal["bad", "part", "shard"]
    size: int
    used: float


class Ledger:
    """The files of one cache folder. All methods but `locked` need the lock held."""

    def __init__(self, folder: Path, max_bytes: int, max_files: int | None):
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_files = max_files
        self._control = folder / ".mlx-shards"
        try:
            for each in _FOLDERS:
                (self._control / each).mkdir(parents=True, exist_ok=True)
            wait_for_lock(self._control / "lock").release()
            self.is_writable = can_write(self._control)
        except OSError as error:
            if not (folder.is_dir() and is_read_only(error)):
                raise
            self.is_writable = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for oneself, for the moment of a decision; never while downloading."""
        if not self.is_writable:
            yield
            return
        with wait_for_lock(self._control / "lock"):
            yield

    def name_for(self, shard: Shard) -> str:
        """Return the name that the shard has here: its own, unless another address has that."""
        what = f"{shard.address} {shard.sha256 or ''}"
        other = f"{hashlib.sha256(what.encode()).hexdigest()[:12]}/{shard.name}"
        if self._holder(other) is not None:
            return other
        found = self._holder(shard.name)
        return shard.name if found is None or is_of(found, shard) else other

    def _holder(self, name: str) -> dict | None:
        """Return the record of the shard that has a name or is being downloaded; {} if foreign."""
        if self.path(name).exists():
            return self.owned(name) or {}
        plan = self.plan(name) if self.is_writable else None
        begun = plan and (self.part(name).exists() or self._is_locked("download", key_of(name)))
        return plan if begun else None

    def path(self, name: str) -> Path:
        """Return where a shard belongs."""
        return self.folder / name

    def part(self, name: str) -> Path:
        """Return where a shard is downloaded to."""
        return self._at("part", name)

    def bad(self, name: str) -> Path:
        """Return where a shard goes that failed its check."""
        return self._at("bad", name)

    def lock(self, kind: Literal["use", "ahead", "download"], name: str) -> Lock | None:
        """Try to lock a shard: `download` for oneself, the others shared."""
        if not self.is_writable:
            return try_lock_unwritable(self._at(kind, name))
        return try_lock(self._at(kind, name), shared=kind != "download")

    def owned(self, name: str) -> dict | None:
        """Return the record of a shard that was downloaded here, or None."""
        return read_json(self._at("owned", name))

    def touch(self, name: str) -> None:
        """Mark an owned shard as used now."""
        if not self.is_writable:
            return
        now = time.time_ns()  # the file system's own clock moves in steps of milliseconds
        os.utime(self._at("owned", name), ns=(now, now))

    def plan(self, name: str) -> dict | None:
        """Return the record of a download that was begun, or None."""
        return read_json(self._at("plan", name))

    def begin(self, name: str, address: str) -> Lock | None:
        """Lock a shard to download it, and record from where; None where another does so."""
        lock = self.lock("download", name)
        if lock and (self.plan(name) or {}).get("location") != address:
            self.part(name).unlink(missing_ok=True)
            try:
                write_json(self._at("plan", name), {"location": address})
            except BaseException:
                lock.release()
                raise
        return lock

    def abandon(self, name: str) -> None:
        """Remove what a download has written so far."""
        self.part(name).unlink(missing_ok=True)
        self._at("plan", name).unlink(missing_ok=True)

    def install(self, name: str, record: dict) -> None:
        """Turn a complete part into the shard."""
        target = self.path(name)
        if target.exists():
            raise FileExistsError(f"{target} appeared while {name} was downloaded; move it away")
        target.parent.mkdir(parents=True, exist_ok=True)
        # The record first: a crash between the two must not leave a file that nobody owns.
        write_json(self._at("owned", name), record)
        self.part(name).replace(target)
        self._at("plan", name).unlink(missing_ok=True)

    def quarantine(self, name: str) -> Path:
        """Put a part or an owned shard aside; it goes first when room is needed."""
        bad = self.bad(name)
        source = self.part(name) if self.part(name).exists() else self.path(name)
        source.replace(bad)
        self._at("plan", name).unlink(missing_ok=True)
        self._at("owned", name).unlink(missing_ok=True)
        return bad

    def entries(self) -> list[Entry]:
        """Return all that counts, what should go first in front."""
        found = [*self._parts(), *self._shards()]
        for path in (self._control / "bad").iterdir():
            status = path.stat()
            found.append(Entry(path.name, "bad", status.st_size, status.st_mtime))
        return sorted(found, key=lambda each: (_EVICTION_ORDER.index(each.kind), each.used))

    def largest(self) -> int:
        """Return the size of the largest file that counts, at least 1."""
        return max((each.size for each in self.entries()), default=1) or 1

    def check_bound(self, name: str, size: int) -> None:
        """Raise `CacheFull` where a shard could never be held."""
        if size > self.max_bytes:
            raise CacheFull(
                f"shard {name} has {size:,} bytes, but the cache {self.folder} is bounded to "
                f"{self.max_bytes:,}; raise max_bytes"
            )

    def reserve(self, name: str, size: int, record: dict, gentle: bool) -> int | None:
        """Make room for `size` bytes of a shard to come; return how many files had to go.

        None where the files that are in the way are in use, which with `gentle` includes those
        fetched ahead by anybody. Raises `CacheFull` where no eviction would help.
        """
        self.check_bound(name, size)
        key = key_of(name)
        entries = [each for each in self.entries() if (each.key, each.kind) != (key, "part")]
        gone = 0
        candidates = self._by_worth(entries)
        while not self._fits(entries, size):
            victim = next(candidates, None)
            if victim is None:
                return None
            if self._evict(victim, gentle):
                entries.remove(victim)
                gone += 1
        write_json(self._at("plan", name), {**record, "room": size})
        return gone

    def _fits(self, entries: list[Entry], size: int) -> bool:
        files_fit = self.max_files is None or len(entries) < self.max_files
        return files_fit and sum(each.size for each in entries) + size <= self.max_bytes

    def _by_worth(self, entries: list[Entry]) -> Iterator[Entry]:
        """Yield the entries, those which somebody fetched ahead last."""
        later = []
        for each in list(entries):
            if each.kind == "shard" and self._is_locked("ahead", each.key):
                later.append(each)
            else:
                yield each
        yield from later

    def _evict(self, entry: Entry, gentle: bool) -> bool:
        if entry.kind == "bad":
            (self._control / "bad" / entry.key).unlink()
            return True
        if entry.kind == "part":
            if self._is_locked("download", entry.key):
                return False
            for folder in ("part", "plan"):
                (self._control / folder / entry.key).unlink(missing_ok=True)
            return True
        if self._is_locked("use", entry.key) or (gentle and self._is_locked("ahead", entry.key)):
            return False
        # The file first: a record without a file is harmless, a file without a record stays.
        self.path(unquote(entry.key)).unlink(missing_ok=True)
        (self._control / "owned" / entry.key).unlink(missing_ok=True)
        return True

    def _is_locked(self, kind: str, key: str) -> bool:
        lock = try_lock(self._control / kind / key)
        if lock:
            lock.release()
        return lock is None

    def _shards(self) -> Iterator[Entry]:
        for record in (self._control / "owned").iterdir():
            path = self.path(unquote(record.name))
            if path.exists():
                yield Entry(record.name, "shard", path.stat().st_size, record.stat().st_mtime)
            else:
                record.unlink()  # somebody else deleted the shard

    def _parts(self) -> Iterator[Entry]:
        folder = self._control / "part"
        keys = {
            each.name for where in ("part", "plan") for each in (self._control / where).iterdir()
        }
        for key in keys:
            plan = read_json(self._control / "plan" / key) or {}
            path = folder / key
            status = path.stat() if path.exists() else None
            size = max(status.st_size if status else 0, plan.get("room", 0))
            if not self._is_locked("download", key):  # left by a killed process: what there is
                size = status.st_size if status else 0
                if not status:
                    (self._control / "plan" / key).unlink(missing_ok=True)
            if not status and not size:
                continue  # a download that has no room yet
            yield Entry(key, "part", size, status.st_mtime if status else 0.0)

    def _at(self, kind: str, name: str) -> Path:
        return self._control / kind / key_of(name)
