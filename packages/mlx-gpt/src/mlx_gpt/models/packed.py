"""A cache for tokens of several texts that go through a model in one pass.

A pass reads all weights once, however few tokens it has. So prompts share one: each token is a row
of its own, of one token, and only attention keeps the texts apart. Nothing is padded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_gpt.models.cache import Cache, LayerCache, TokenBuffer


class Part(NamedTuple):
    """The next `tokens` of a text, whose cache has one row without padding."""

    cache: Cache
    tokens: int


class PackedCache(Cache):
    """The caches of `parts` as one, for ids (N, 1) with the tokens of all parts in turn.

    A pass of the model adds the tokens to the caches of the parts. Use it once.
    """

    def __init__(self, parts: Sequence[Part]):
        super().__init__([])
        self.parts = parts
        caches = [each.cache.layers for each in parts]
        self.layers = [_PackedLayer(parts, layers) for layers in zip(*caches, strict=True)]
        self.embeddings = _PackedEmbeddings(parts)
        positions = [each.cache.offset + token for each in parts for token in range(each.tokens)]
        self._offset = max(positions)
        self.pad([self._offset - each for each in positions])

    @property
    def offset(self) -> int:
        """The position of the token that has most tokens before it."""
        return self._offset

    def masks(self, tokens: int) -> "list[mx.array | str | None]":
        """Return no masks: each part has its own."""
        assert tokens == 1
        padding = self.padding or [0] * sum(each.tokens for each in self.parts)
        position = mx.array([self._offset - each for each in padding])
        of_parts = [each.cache.masks(each.tokens) for each in self.parts]
        for layer, *masks in zip(self.layers, *of_parts, strict=True):
            assert isinstance(layer, _PackedLayer)
            layer.position, layer.masks = position, masks
        return [None] * len(self.layers)


def _split(parts: Sequence[Part], x: mx.array) -> list[mx.array]:
    """Return what parts have of x (N, heads, 1, any), (1, heads, tokens, any) each."""
    end, found = 0, []
    for each in parts:
        begin, end = end, end + each.tokens
        found.append(x[begin:end, :, 0].swapaxes(0, 1)[None])
    return found


class _PackedLayer(LayerCache):
    def __init__(self, parts: Sequence[Part], layers: Sequence[LayerCache]):
        super().__init__(layers[0].window)
        self._parts, self._layers = parts, layers
        self.masks: Sequence[mx.array | str | None] = ()

    def attend(
        self, q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None
    ) -> mx.array:
        own = (_split(self._parts, each) for each in (q, k, v))
        found = [
            layer.attend(*qkv, scale=scale, mask=of_part)[0].swapaxes(0, 1)
            for layer, of_part, *qkv in zip(self._layers, self.masks, *own, strict=True)
        ]
        return mx.concatenate(found)[:, :, None]


class _PackedEmbeddings(TokenBuffer):
    """As the buffer of embeddings of rows that have a token: the last one, and the new one."""

    def __init__(self, parts: Sequence[Part]):
        super().__init__(1)
        self._parts = parts

    def append(self, parts: Sequence[mx.array]) -> list[mx.array]:
        pairs = []
        for part, new in zip(self._parts, _split(self._parts, parts[0]), strict=True):
            [read] = part.cache.embeddings.append([new])
            if read.shape[2] == part.tokens:  # nothing is before the first token
                read = mx.concatenate([mx.zeros_like(read[:, :, :1]), read], axis=2)
            pairs.append(mx.stack([read[0, 0, :-1], read[0, 0, 1:]], axis=1))
        return [mx.concatenate(pairs)[:, None]]
