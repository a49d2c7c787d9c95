"""How many bytes of keys and values a batch may need, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_gpt.machine import describe_device
from mlx_gpt.models import cache as caches
from mlx_gpt.models.cache import Cache

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder

# Of the memory that is free once the model is loaded: the rest is for activations and copies.
_SHARE = 0.7


class CacheMemory:
    """The bytes that rows of a model need; `limit` None is most of the device's free memory.

    Rows of a batch all have the columns of the longest one. `probe` is a cache after a token.
    """

    def __init__(self, probe: Cache, limit: int | None = None):
        self.limit = int(describe_device().memory * _SHARE) if limit is None else limit
        self._layers = [
            (each.window + caches.SLACK, sum(part.nbytes // part.shape[2] for part in each.parts))
            for each in probe.buffers()
        ]

    def needed(self, tokens: Sequence[int]) -> int:
        """Return the bytes of a batch whose rows have at most so many tokens."""
        longest = max(tokens, default=0)
        columns = (min(longest, window) for window, _ in self._layers)
        row = sum(
            -(-count // caches.STEP) * caches.STEP * size
            for count, (_, size) in zip(columns, self._layers, strict=True)
        )
        return caches.row_capacity(len(tokens)) * row

    def fits(self, tokens: Sequence[int]) -> bool:
        """Return whether the bytes of such a batch are within the limit."""
        return self.needed(tokens) <= self.limit


def probe(model: Decoder, cache: Cache) -> Cache:
    """Read one token into an empty cache and return it; raises what a broken device raises."""
    mx.eval(model.logits(model.hidden_states(mx.array([[0]]), cache)), cache.arrays())
    return cache
