"""What a cache counts, from any number of threads."""

import threading
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CacheStats:
    """Counts since the cache object was made.

    `hits` and `misses` count leases that found the shard and that had to wait for it.
    """

    hits: int = 0
    misses: int = 0
    downloads: int = 0
    bytes_received: int = 0
    evictions: int = 0
    corrupt: int = 0


class Tally:
    """Adds up `CacheStats`."""

    def __init__(self) -> None:
        self.stats = CacheStats()
        self._lock = threading.Lock()

    def count(self, **more: int) -> None:
        """Add to the counts of these names."""
        with self._lock:
            changed = {name: getattr(self.stats, name) + value for name, value in more.items()}
            self.stats = replace(self.stats, **changed)
