"""A shard (one file of documents), and the errors of downloading, reading or writing one."""

import errno
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ShardError(Exception):
    """A shard cannot be downloaded, read or written; the message names it and a remedy."""


class DownloadError(ShardError):
    """The server refused, or timed out too often. `status` is the HTTP status, if any."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class CorruptShard(ShardError):
    """The file is damaged."""


class RowError(ShardError, ValueError):
    """A row has no text, cannot be tokenized, or has invalid token ids."""


class DiskFull(ShardError):
    """The disk is full; the partly written file is removed."""


class CacheFull(ShardError):
    """The bounds of the cache leave no room for the shard."""


class StateError(ShardError):
    """A saved state does not belong to this stream."""


@contextmanager
def explain_disk_errors(
    path: Path, advice: str, undo: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Call `undo` and raise `DiskFull` if a disk, quota or file size limit is exceeded.

    Any other `OSError` without a path gets this one.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            undo()
            raise DiskFull(f"{path}: {os.strerror(error.errno)}; {advice}") from error
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@dataclass(frozen=True)
class Shard:
    """One file of documents.

    `name` is its path inside the data set, with slashes. `location` is an http(s) URL, a file URL
    or a local path. `size` (bytes), `sha256` (hex) and `rows` (documents) are checked if known.
    """

    name: str
    location: str
    size: int | None = None
    sha256: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.name).parts
        if not parts or self.name.startswith("/") or any(part.startswith(".") for part in parts):
            raise ValueError(
                f"shard name {self.name!r}: expected a relative path without hidden parts or '..'"
            )
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"shard {self.name}: sha256 must be 64 lower-case hex digits")
        for field in ("size", "rows"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ValueError(f"shard {self.name}: {field} must be a number, got {value!r}")
        if self.local_path is None and urlsplit(self.location).scheme not in ("http", "https"):
            raise ValueError(
                f"shard {self.name}: location {self.location!r} must be a path, or a URL that "
                "starts with http://, https:// or file://"
            )

    @property
    def address(self) -> str:
        """The location without credentials, which identifies the shard."""
        return strip_credentials(self.location)

    @property
    def local_path(self) -> Path | None:
        """The path of a local shard, None for a remote one."""
        if self.location.startswith("file://"):
            return Path(unquote(urlsplit(self.location).path))
        return None if "://" in self.location else Path(self.location)


def strip_credentials(url: str) -> str:
    """Return a URL without user name and password."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)[^/?#]*@", r"\1", url, flags=re.IGNORECASE)


def fingerprint(shards: Sequence[Shard]) -> str:
    """Return 16 hex digits that identify the shards' names in their order.

    Copies elsewhere have the same fingerprint. If a name occurs twice, the addresses count too.
    """
    names = Counter(shard.name for shard in shards)
    lines = [s.name if names[s.name] == 1 else f"{s.name} {s.address}" for s in shards]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_mismatch(shard: Shard, size: int, digest: str) -> str | None:
    """Return how this size and SHA-256 differ from the shard's, or None."""
    if shard.size not in (None, size):
        return f"{size:,} bytes instead of {shard.size:,}"
    if shard.sha256 not in (None, digest):
        return f"SHA-256 {digest} instead of {shard.sha256}"
    return None


def parse_bytes(text: int | str) -> int:
    """Return a number of bytes from `20_000_000`, `"20MB"` or `"1.5G"` (powers of 1000)."""
    match = re.fullmatch(r"\s*(\d[\d_]*\.?\d*)\s*([KMGT]?)B?\s*", str(text), re.IGNORECASE)
    if not match:
        raise ValueError(f"expected a size such as 500MB or 20GB, got {text!r}")
    return int(Decimal(match[1]) * _UNITS[match[2].upper()])
