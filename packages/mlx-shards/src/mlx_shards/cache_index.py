"""The index of a cache folder: which files it holds, and which may be deleted.

    <folder>/<name>                     a shard
    <folder>/<hash>/<name>              a shard whose name another one has
    <folder>/.mlx-shards/owned/<key>    JSON: the address of a downloaded shard, its size and hash
    <folder>/.mlx-shards/part/<key>     a download in progress or interrupted
    <folder>/.mlx-shards/plan/<key>     JSON: its reserved room, address and validator
    <folder>/.mlx-shards/bad/<key>      a file that failed its check
    <folder>/.mlx-shards/{use,ahead,download}/<key>   locks; see `sync`

Only this module deletes. A file without a record in `owned` does not count and is never deleted. A
folder that cannot be written needs neither locks nor records: nothing in it can be deleted.
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
    """A file that counts: its size now or when complete, and when it was last used."""

    key: str
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
        """Lock the index for a decision; never while downloading."""
        if not self.is_writable:
            yield
            return
        with wait_for_lock(self._control / "lock"):
            yield

    def place(self, shard: Shard) -> Shard:
        """Return the shard with its name in this folder: `<hash>/<name>` if another has its own."""
        identity = f"{shard.address} {shard.sha256 or ''}"
        other = f"{hashlib.sha256(identity.encode()).hexdigest()[:12]}/{shard.name}"
        if self._holder(other) is not None:
            return replace(shard, name=other)
        record = self._holder(shard.name)
        if record is None:
            return shard
        if shard.sha256 and "sha256" in record:
            is_same = record["sha256"] == shard.sha256
        else:  # the empty record of a foreign file matches by name alone
            is_same = record.get("location", shard.address) == shard.address
        return shard if is_same else replace(shard, name=other)

    def _holder(self, name: str) -> dict | None:
        """Return the record of the shard that has or downloads a name; {} for a foreign file."""
        if self.path(name).exists():
            return self.owned(name) or {}
        plan = self.plan(name) if self.is_writable else None
        begun = plan and (self.part(name).exists() or self._is_locked("download", _key(name)))
        return plan if begun else None

    def path(self, name: str) -> Path:
        """Return the path of a shard."""
        return self.folder / name

    def part(self, name: str) -> Path:
        """Return the path to which a shard is downloaded."""
        return self._at("part", name)

    def lock(self, kind: Literal["use", "ahead", "download"], name: str) -> Lock | None:
        """Try to lock a shard: `download` excludes others, the other kinds are shared."""
        if not self.is_writable:
            return try_lock_unwritable(self._at(kind, name))
        return try_lock(self._at(kind, name), shared=kind != "download")

    def owned(self, name: str) -> dict | None:
        """Return the record of a shard that was downloaded here, or None."""
        return _read_json(self._at("owned", name))

    def touch(self, name: str) -> None:
        """Mark an owned shard as used now."""
        if self.is_writable:
            now = time.time_ns()  # the file system's own clock moves in steps of milliseconds
            os.utime(self._at("owned", name), ns=(now, now))

    def plan(self, name: str) -> dict | None:
        """Return the record of an unfinished download, or None."""
        return _read_json(self._at("plan", name))

    def begin(self, name: str, address: str) -> Lock | None:
        """Lock a shard for downloading and record its address; None if another downloads it."""
        lock = self.lock("download", name)
        if lock and (self.plan(name) or {}).get("location") != address:
            self.part(name).unlink(missing_ok=True)
            try:
                _write_json(self._at("plan", name), {"location": address})
            except BaseException:
                lock.release()
                raise
        return lock

    def abandon(self, name: str) -> None:
        """Delete an unfinished download."""
        self.part(name).unlink(missing_ok=True)
        self._at("plan", name).unlink(missing_ok=True)

    def install(self, name: str, record: dict) -> None:
        """Move a complete part to the path of the shard."""
        target = self.path(name)
        if target.exists():
            raise FileExistsError(f"{target} appeared while {name} was downloaded; move it away")
        target.parent.mkdir(parents=True, exist_ok=True)
        # The record first: a crash between the two must not leave a file without a record.
        _write_json(self._at("owned", name), record)
        self.part(name).replace(target)
        self._at("plan", name).unlink(missing_ok=True)

    def quarantine(self, name: str) -> Path:
        """Move a part or shard to `bad`, to be evicted first; return its path there."""
        bad = self._at("bad", name)
        source = self.part(name) if self.part(name).exists() else self.path(name)
        source.replace(bad)
        self._at("plan", name).unlink(missing_ok=True)
        self._at("owned", name).unlink(missing_ok=True)
        return bad

    def entries(self) -> list[Entry]:
        """Return all files that count, in the order of eviction."""
        found = [*self._parts(), *self._shards()]
        for path in (self._control / "bad").iterdir():
            status = path.stat()
            found.append(Entry(path.name, "bad", status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: (_EVICTION_ORDER.index(entry.kind), entry.used))

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

    def reserve(self, name: str, size: int, record: dict, gentle: bool) -> int | None:
        """Reserve `size` bytes for a shard; return the number of evicted files.

        None if files in use leave no room; `gentle` spares files fetched ahead, too. Raises
        `CacheFull` where no eviction would help.
        """
        self.check_bound(name, size)
        key = _key(name)
        entries = [each for each in self.entries() if (each.key, each.kind) != (key, "part")]
        evicted = 0
        candidates = self._candidates(entries)
        while not self._fits(entries, size):
            victim = next(candidates, None)
            if victim is None:
                return None
            if self._evict(victim, gentle):
                entries.remove(victim)
                evicted += 1
        _write_json(self._at("plan", name), {**record, "room": size})
        return evicted

    def _fits(self, entries: list[Entry], size: int) -> bool:
        files_fit = self.max_files is None or len(entries) < self.max_files
        return files_fit and sum(each.size for each in entries) + size <= self.max_bytes

    def _candidates(self, entries: list[Entry]) -> Iterator[Entry]:
        """Yield the entries in their order, those fetched ahead last."""
        ahead = []
        for entry in list(entries):
            if entry.kind == "shard" and self._is_locked("ahead", entry.key):
                ahead.append(entry)
            else:
                yield entry
        yield from ahead

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
        # The file first: a record without a file is harmless, a file without a record would stay.
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
                record.unlink()  # the user deleted the shard

    def _parts(self) -> Iterator[Entry]:
        keys = {path.name for kind in ("part", "plan") for path in (self._control / kind).iterdir()}
        for key in keys:
            plan, part = self._control / "plan" / key, self._control / "part" / key
            status = part.stat() if part.exists() else None
            size = status.st_size if status else 0
            if self._is_locked("download", key):
                size = max(size, (_read_json(plan) or {}).get("room", 0))
            elif not status:  # a killed process had written nothing
                plan.unlink(missing_ok=True)
            if status or size:
                yield Entry(key, "part", size, status.st_mtime if status else 0.0)

    def _at(self, kind: str, name: str) -> Path:
        return self._control / kind / _key(name)


def _key(name: str) -> str:
    """Return the name of a shard as that of one file."""
    return quote(name, safe="")


def _read_json(path: Path) -> dict | None:
    """Return the record in a file, or None."""
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: the machine crashed while writing
        return None
    return record if isinstance(record, dict) else None


def _write_json(path: Path, record: dict) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(record)))
