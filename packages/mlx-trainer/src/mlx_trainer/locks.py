"""One process at a time writes into a folder."""

import fcntl
import os
from pathlib import Path


class FolderLock:
    """Keeps other processes out of a folder until it is closed; a dead process holds none.

    Raises `BlockingIOError` where another one holds it. A file system without locks keeps nobody
    out.
    """

    def __init__(self, folder: Path):
        self._descriptor: int | None = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise BlockingIOError(f"{folder}: another process is training in it") from None
        except OSError:
            pass

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    __del__ = close
