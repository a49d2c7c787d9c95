"""Synchronization: stop threads, lock files between processes, lease a file.

File locks use `flock`: the system releases the locks of a dead process. No lock stores a process
id, so no lock can be stale.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self


class Stopped(Exception):
    """Raised inside a thread that was asked to stop; never reaches the user."""


class Stop:
    """A request to stop; it also interrupts threads that wait or read from a socket."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []

    def set(self) -> None:
        """Request the stop, and call the functions registered by `interrupting` in this thread."""
        with self._lock:
            self._event.set()
            for interrupt in self._interrupts:
                interrupt()

    def is_set(self) -> bool:
        """Return whether the stop was requested."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Stopped` if the stop was requested."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep; raise `Stopped` as soon as the stop is requested."""
        if self._event.wait(seconds):
            raise Stopped

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` if the stop is requested inside this block."""
        with self._lock:
            self.check()
            self._interrupts.append(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)


class Lock:
    """A lock held on a file until `release`. Two locks of one process exclude each other too."""

    def __init__(self, descriptor: int | None):
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self) -> None:
        with suppress(OSError):
            self.release()


def try_lock(path: Path, shared: bool = False) -> Lock | None:
    """Lock the file, created if missing; return None if another lock excludes this one."""
    return _lock(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def try_lock_unwritable(path: Path) -> Lock:
    """Take a shared lock on a read-only file; return an empty lock if that is impossible."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return Lock(None)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return Lock(descriptor)


def wait_for_lock(path: Path) -> Lock:
    """Wait for an exclusive lock on the file, created if missing."""
    lock = _lock(path, fcntl.LOCK_EX)
    assert lock
    return lock


def _lock(path: Path, flags: int) -> Lock | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, flags)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor)


class Lease(Lock):
    """A shard that stays on disk until `release` or the end of a `with` block."""

    def __init__(self, path: Path, lock: Lock | None):
        super().__init__(None)
        if lock:
            self._descriptor, lock._descriptor = lock._descriptor, None
        self.path = path
        self.identity = file_identity(path)


def file_identity(path: Path) -> tuple[int, int]:
    """Return numbers that distinguish a file from a later one of the same name."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
