"""A full disk in one line: which file had no room, and what to do."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_shards.errors import DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def room_on_disk(
    path: Path, advice: str, undo: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Raise `DiskFull` for a disk, quota or limit that is full, after `undo` has made room.

    Any other `OSError` without a path gets this one.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            undo()
            raise DiskFull(f"{path}: {os.strerror(error.errno)}; {advice}") from error
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def is_read_only(error: OSError) -> bool:
    """Return whether writing failed because it is not allowed here."""
    return error.errno in _READ_ONLY
