"""The index of a cache folder: the files in it, and which of them may be deleted.

    <folder>/<name>                     a shard
    <folder>/<hash>/<name>              another shard of the same name
    <folder>/.mlx-shards/owned/<key>    JSON: the address of a downloaded shard, its size and hash
    <folder>/.mlx-shards/part/<key>     a download in progress or interrupted
    <folder>/.mlx-shards/plan/<key>     JSON: its reserved room, address and validator
    <folder>/.mlx-shards/bad/<key>      a file that failed its check
    <folder>/.mlx-shards/{use,ahead,download}/<key>   locks; see `sync`

Only this module deletes files. A file without a record in `owned` does not count and is never
deleted. A read-only folder needs neither locks nor records: nothing in it can be deleted.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from mlx_shards._atomic import write_atomic
from mlx_shards.shard import CacheFull, Shard
from mlx_shards.sync import Lock, try_lock, try_lock_unwritable, wait_for_lock

_FOLDERS = ("owned", "part", "plan", "bad", "use", "ahead", "download")
_EVICTION_ORDER = ("bad", "part", "shard")
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def downloaded_shards(folder: Path) -> list[Shard]:
    """Return the shards that were downloaded into a folder, with sizes and hashes."""
    shards = []
    for path in sorted((folder / ".mlx-shards" / "owned").glob("[!.]*")):
        record = _read_json(path) or {}
        name = unquote(path.name)
        local = str((folder / name).resolve())
        shards.append(Shard(name, local, record.get("size"), record.get("sha256")))
    return shards


@dataclass(frozen=True)
class Entry:
    """A file that counts: its size, now or when complete, and the time of its last use."""

    name: str
    kind: Literal["bad", "part", "shard"]
    size: int
    used: float


class CacheIndex:
    """The files of one cache folder. All methods but `locked` require its lock."""

    def __init__(self, folder: Path, max_bytes: int, max_files: int | None):
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_files = max_files
        self._control = folder / ".mlx-shards"
        try:
            for each in _FOLDERS:
                (self._control / each).mkdir(parents=True, exist_ok=True)
            wait_for_lock(self._control / "lock").release()
            effective = os.access in os.supports_effective_ids
            self.is_writable = os.access(self._control, os.W_OK | os.X_OK, effective_ids=effective)
        except OSError as error:
            if not (folder.is_dir() and error.errno in _READ_ONLY):
                raise
            self.is_writable = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the index to decide what to evict or write; never hold it while downloading."""
        if not self.is_writable:
            yield
            return
        with wait_for_lock(self._control / "lock"):
            yield

    def place(self, shard: Shard) -> Shard:
        """Return the shard with its name in this folder: `<hash>/<name>` if the name is taken."""
        identity = f"{shard.address} {shard.sha256 or ''}"
        other = f"{hashlib.sha256(identity.encode()).hexdigest()[:12]}/{shard.name}"
        if self._record_of(other) is not None:
            return replace(shard, name=other)
        record = self._record_of(shard.name)
        if record is None:
            return shard
        if shard.sha256 and "sha256" in record:
            is_same = record["sha256"] == shard.sha256
        else:  # the empty record of a foreign file matches by name alone
            is_same = record.get("location", shard.address) == shard.address
        return shard if is_same else replace(shard, name=other)

    def _record_of(self, name: str) -> dict | None:
        """Return the record of the shard that has or downloads a name; {} for a foreign file."""
        if (self.folder / name).exists():
            return self.record("owned", name) or {}
        plan = self.record("plan", name) if self.is_writable else None
        begun = plan and (self.file("part", name).exists() or self._is_locked("download", name))
        return plan if begun else None

    def file(self, kind: str, name: str) -> Path:
        """Return the path of a shard's file in one of the folders above."""
        return self._control / kind / quote(name, safe="")

    def record(self, kind: Literal["owned", "plan"], name: str) -> dict | None:
        """Return the record of a downloaded shard, or of an unfinished download."""
        return _read_json(self.file(kind, name))

    def lock(self, kind: Literal["use", "ahead", "download"], name: str) -> Lock | None:
        """Try to lock a shard: `download` excludes others, the other kinds are shared."""
        if not self.is_writable:
            return try_lock_unwritable(self.file(kind, name))
        return try_lock(self.file(kind, name), shared=kind != "download")

    def touch(self, name: str) -> None:
        """Mark an owned shard as used now."""
        if self.is_writable:
            now = time.time_ns()  # the file system's clock only has a resolution of milliseconds
            os.utime(self.file("owned", name), ns=(now, now))

    def begin(self, name: str, address: str) -> Lock | None:
        """Lock a shard for downloading and record its address; None if it is being downloaded."""
        lock = self.lock("download", name)
        if lock and (self.record("plan", name) or {}).get("location") != address:
            self.file("part", name).unlink(missing_ok=True)
            try:
                _write_json(self.file("plan", name), {"location": address})
            except BaseException:
                lock.release()
                raise
        return lock

    def abandon(self, name: str) -> None:
        """Delete an unfinished download."""
        self.file("part", name).unlink(missing_ok=True)
        self.file("plan", name).unlink(missing_ok=True)

    def install(self, name: str, record: dict) -> None:
        """Move a complete part to the path of the shard."""
        target = self.folder / name
        if target.exists():
            raise FileExistsError(f"{target} appeared while {name} was downloaded; move it away")
        target.parent.mkdir(parents=True, exist_ok=True)
        # The record first: a crash between the two must not leave a file without a record.
        _write_json(self.file("owned", name), record)
        self.file("part", name).replace(target)
        self.file("plan", name).unlink(missing_ok=True)

    def quarantine(self, name: str) -> Path:
        """Move a part or shard to `bad`, to be evicted first; return its path there."""
        bad = self.file("bad", name)
        part = self.file("part", name)
        (part if part.exists() else self.folder / name).replace(bad)
        self.file("plan", name).unlink(missing_ok=True)
        self.file("owned", name).unlink(missing_ok=True)
        return bad

    def entries(self) -> list[Entry]:
        """Return all files that count, in the order of eviction."""
        entries = [*self._bad_files(), *self._parts(), *self._shards()]
        return sorted(entries, key=lambda entry: (_EVICTION_ORDER.index(entry.kind), entry.used))

    def largest(self) -> int:
        """Return the size of the largest file, at least 1."""
        return max((each.size for each in self.entries()), default=1) or 1

    def check_bound(self, name: str, size: int) -> None:
        """Raise `CacheFull` if a shard is larger than the bound."""
        if size > self.max_bytes:
            raise CacheFull(
                f"shard {name} has {size:,} bytes, but the cache {self.folder} is bounded to "
                f"{self.max_bytes:,}; raise max_bytes"
            )

    def reserve(self, name: str, size: int, record: dict, keep_ahead: bool) -> int | None:
        """Reserve `size` bytes for a shard; return the number of evicted files.

        None if files in use leave no room; `keep_ahead` also keeps files downloaded ahead. Raises
        `CacheFull` if evicting everything would not be enough.
        """
        self.check_bound(name, size)
        entries = [each for each in self.entries() if (each.name, each.kind) != (name, "part")]
        evicted = 0
        candidates = self._candidates(entries)
        while not self._fits(entries, size):
            victim = next(candidates, None)
            if victim is None:
                return None
            if self._evict(victim, keep_ahead):
                entries.remove(victim)
                evicted += 1
        _write_json(self.file("plan", name), {**record, "room": size})
        return evicted

    def _fits(self, entries: list[Entry], size: int) -> bool:
        files_fit = self.max_files is None or len(entries) < self.max_files
        return files_fit and sum(each.size for each in entries) + size <= self.max_bytes

    def _candidates(self, entries: list[Entry]) -> Iterator[Entry]:
        """Yield the entries in their order, those downloaded ahead last."""
        ahead = []
        for entry in list(entries):
            if entry.kind == "shard" and self._is_locked("ahead", entry.name):
                ahead.append(entry)
            else:
                yield entry
        yield from ahead

    def _evict(self, entry: Entry, keep_ahead: bool) -> bool:
        name = entry.name
        if entry.kind == "bad":
            self.file("bad", name).unlink()
            return True
        if entry.kind == "part":
            if self._is_locked("download", name):
                return False
            self.abandon(name)
            return True
        if self._is_locked("use", name) or (keep_ahead and self._is_locked("ahead", name)):
            return False
        # The file first: a record without a file is harmless, a file without a record would stay.
        (self.folder / name).unlink(missing_ok=True)
        self.file("owned", name).unlink(missing_ok=True)
        return True

    def _is_locked(self, kind: str, name: str) -> bool:
        lock = try_lock(self.file(kind, name))
        if lock:
            lock.release()
        return lock is None

    def _names(self, kind: str) -> Iterator[str]:
        return (unquote(path.name) for path in (self._control / kind).iterdir())

    def _shards(self) -> Iterator[Entry]:
        for name in self._names("owned"):
            path, record = self.folder / name, self.file("owned", name)
            if path.exists():
                yield Entry(name, "shard", path.stat().st_size, record.stat().st_mtime)
            else:
                record.unlink()  # the user deleted the shard

    def _parts(self) -> Iterator[Entry]:
        for name in {*self._names("part"), *self._names("plan")}:
            part = self.file("part", name)
            status = part.stat() if part.exists() else None
            size = status.st_size if status else 0
            if self._is_locked("download", name):
                size = max(size, (self.record("plan", name) or {}).get("room", 0))
            elif not status:  # a killed process wrote nothing
                self.file("plan", name).unlink(missing_ok=True)
            if status or size:
                yield Entry(name, "part", size, status.st_mtime if status else 0.0)

    def _bad_files(self) -> Iterator[Entry]:
        for name in self._names("bad"):
            status = self.file("bad", name).stat()
            yield Entry(name, "bad", status.st_size, status.st_mtime)


def _read_json(path: Path) -> dict | None:
    """Return the record in a file, or None."""
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: the machine crashed while writing
        return None
    return record if isinstance(record, dict) else None


def _write_json(path: Path, record: dict) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(record)))
