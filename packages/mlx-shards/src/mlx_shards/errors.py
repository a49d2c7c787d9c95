"""What can go wrong with a shard, one class a cause that a caller may want to treat apart."""


class ShardError(Exception):
    """Anything wrong with getting or reading a shard; the text names it and says what to do."""


class DownloadError(ShardError):
    """The server refused, or gave nothing for too long. `status` is the HTTP status, if any."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class CorruptShard(ShardError):
    """The bytes are there and are not what they should be."""


class RowError(ShardError, ValueError):
    """One row cannot be used: it is no text, cannot be tokenized, or has ids that are none."""


class DiskFull(ShardError):
    """The disk has no room for a file; what had been written of it is removed."""


class CacheFull(ShardError):
    """There is no room within the bounds of the cache."""


class StateError(ShardError):
    """A saved state does not belong to this stream."""
