"""A shard that may be read: it stays on disk as long as its lease is held."""

from pathlib import Path

from mlx_shards.locks import Lock


class Lease:
    """A shard that stays on disk until `release`, which also the end of a `with` block does."""

    def __init__(self, path: Path, lock: Lock | None):
        self.path = path
        self.identity = identity(path)
        self._lock = lock

    def release(self) -> None:
        """Allow the shard to go; a second time does nothing."""
        if self._lock:
            self._lock.release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def identity(path: Path) -> tuple[int, int]:
    """Return what tells a file from another one that later has its name."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
