"""Locks between threads and processes by `flock`: the system frees those of a dead process.

No lock names a process id, so none can be stale, and none is confused by a reused id.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Lock:
    """A lock held on a file until `release`; each is its own, also inside one process."""

    def __init__(self, descriptor: int | None):
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self) -> None:
        with suppress(OSError):
            self.release()


def try_lock(path: Path, shared: bool = False) -> Lock | None:
    """Lock the file, made if missing; return None where another holds it.

    Any number may hold a `shared` lock, and only where nobody holds one that is not.
    """
    return _lock(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def try_lock_unwritable(path: Path) -> Lock:
    """Lock a file that cannot be written, shared; where that is not possible nothing is locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return Lock(None)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return Lock(descriptor)


def wait_for_lock(path: Path) -> Lock:
    """Lock the file for oneself, made if missing, once it is free."""
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
