"""Keys and values of texts that were read, for the texts that begin alike."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.models.cache import Cache
from mlx_gpt.models.ragged import first_tokens

_FULL = 0.75  # of a cache is used: then it is kept as it is


@dataclass(frozen=True)
class _Entry:
    adapter: str | None
    ids: np.ndarray
    cache: Cache  # of one row; never changed


class PrefixCache:
    """The latest texts of all requests, in at most `limit` bytes of keys and values.

    Texts are those of one adapter: another one has other keys and values. Those used longest ago
    are removed first.
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise ValueError(f"the prefix cache must have 0 bytes or more, got {limit}")
        self.limit = limit
        self.nbytes = self.hits = self.tokens = 0
        """`tokens` is what the `hits` found."""
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # the latest use is last
        self._next = 0

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._entries)

    def find(self, adapter: str | None, prompt: Sequence[int]) -> Cache | None:
        """Return a copy of what is known of the beginning of a prompt, without its last token.

        That token must be read to know what follows.
        """
        ids = np.array(prompt[:-1], np.int64)
        found = sorted(
            (-_shared(entry.ids, ids), key)
            for key, entry in self._entries.items()
            if entry.adapter == adapter
        )
        for negative, key in found:
            # Windows may have moved on from the longest one.
            if negative and (cache := first_tokens(self._entries[key].cache, -negative)):
                self._entries.move_to_end(key)
                self.hits, self.tokens = self.hits + 1, self.tokens - negative
                return cache
        return None

    def store(
        self, adapter: str | None, ids: Sequence[int], copy: Callable[[], Cache | None]
    ) -> None:
        """Store the cache of a text that `copy` returns; it is called only if it is needed."""
        new = np.array(ids, np.int64)
        for key, entry in self._entries.items():
            known = entry.adapter == adapter and _shared(entry.ids, new) == len(new)
            if known and entry.cache.can_trim(len(entry.ids) - len(new)):
                self._entries.move_to_end(key)
                return
        if not self.limit or (cache := copy()) is None or cache.nbytes > self.limit:
            return
        mx.async_eval(cache.arrays())
        for key, entry in list(self._entries.items()):
            within = entry.adapter == adapter and _shared(entry.ids, new) == len(entry.ids)
            if within and cache.can_trim(len(new) - len(entry.ids)):
                self._remove(key)
        while self.nbytes + cache.nbytes > self.limit:
            self._remove(next(iter(self._entries)))
        self._entries[self._next] = _Entry(adapter, new, cache)
        self._next += 1
        self.nbytes += cache.nbytes

    def clear(self) -> None:
        """Remove all texts."""
        self._entries.clear()
        self.nbytes = 0

    def _remove(self, key: int) -> None:
        self.nbytes -= self._entries.pop(key).cache.nbytes


def compact(cache: Cache) -> Cache | None:
    """Return a cache of one row that changes no more, without room for more tokens if it has much.

    A copy of a long one would delay the answers in progress.
    """
    needed = sum(each.nbytes // each.shape[2] for each in cache.arrays()) * cache.offset
    return cache if needed > _FULL * cache.nbytes else first_tokens(cache, None)


def _shared(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many ids two texts have in common at their beginning."""
    count = min(len(first), len(second))
    different = np.flatnonzero(first[:count] != second[:count])
    return int(different[0]) if len(different) else count
