"""Key/value caches; a layer with an attention window stores no more than its window.

Prompts of different lengths are padded on the left; `left_padding` counts each row's padding.
Positions include the padding, which is fine because rotary embeddings are relative.
"""

from collections.abc import Sequence

import mlx.core as mx

_STEP = 256  # tokens by which buffers grow


class LayerCache:
    """One layer's keys and values, (B, kv_heads, S, head_dim), of at most `window` + 1 tokens.

    A token attends to itself and the `window` tokens before it. The buffer is a ring: position p is
    stored at p % (window + 1), so that adding a token moves nothing.
    """

    def __init__(self, window: int):
        self.window = window
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0  # tokens so far

    @property
    def size(self) -> int:
        """Capacity in tokens."""
        return self.window + 1

    def attend(
        self, q: mx.array, k: mx.array, v: mx.array, scale: float, mask: "mx.array | str | None"
    ) -> mx.array:
        """Store the keys and values of new tokens and return their attention, as `q`.

        `q` (B, heads, T, head_dim); `k` and `v` (B, kv_heads, T, head_dim), heads a multiple of
        kv_heads; `mask` is this layer's of `Cache.masks(T)`, made before the call.
        """
        k, v = self.update(k, v)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add (B, kv_heads, T, head_dim); return the keys and values to attend to.

        These are the last `window` tokens before them and the new tokens, oldest first; for a
        single new token in the order of the buffer.
        """
        total = self.offset + keys.shape[2]
        if keys.shape[2] == 1 or total <= self.size:
            begin = self.offset % self.size
            keys = self.keys = _write(self.keys, keys, begin, self.size)
            values = self.values = _write(self.values, values, begin, self.size)
            held = min(total, self.size)
            attended = keys[:, :, :held], values[:, :, :held]
        else:
            attended = self._prepend_past(self.keys, keys), self._prepend_past(self.values, values)
            shift = total % self.size
            self.keys, self.values = (
                mx.roll(each[:, :, -self.size :], shift, 2) for each in attended
            )
        self.offset = total
        return attended

    def _prepend_past(self, buffer: mx.array | None, new: mx.array) -> mx.array:
        past = min(self.offset, self.window)
        if buffer is None or not past:
            return new
        if self.offset > self.size:
            buffer = mx.roll(buffer, -(self.offset % self.size), 2)
        held = min(self.offset, self.size)
        return mx.concatenate([buffer[:, :, held - past : held], new], axis=2)

    def key_positions(self, tokens: int) -> mx.array:
        """Return the positions of the keys that `update` returns for this many new tokens."""
        if tokens == 1:
            slots = mx.arange(min(self.offset + 1, self.size))
            return self.offset - (self.offset - slots) % self.size
        past = min(self.offset, self.window)
        return mx.arange(self.offset - past, self.offset + tokens)


class Cache:
    """The caches of all layers of a model, and the last embedding for nanochat's smear."""

    def __init__(self, windows: Sequence[int], left_padding: Sequence[int] | None = None):
        self.layers = [LayerCache(window) for window in windows]
        self.left_padding = None
        if left_padding is not None and any(left_padding):
            self.left_padding = mx.array(list(left_padding))
        self.previous: mx.array | None = None  # (B, 1, n_embd)

    @property
    def offset(self) -> int:
        """Tokens so far, padding included."""
        return self.layers[0].offset

    def masks(self, tokens: int) -> "list[mx.array | str | None]":
        """Return each layer's mask for this many new tokens; equal windows share a mask."""
        by_window = {
            layer.window: attention_mask(tokens, layer.window, layer, self.left_padding)
            for layer in {each.window: each for each in self.layers}.values()
        }
        return [by_window[layer.window] for layer in self.layers]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[mx.array]:
        """Return all arrays, to evaluate them."""
        held = [array for layer in self.layers for array in (layer.keys, layer.values)]
        return [array for array in [*held, self.previous] if array is not None]

    def take(self, rows: Sequence[int]) -> None:
        """Select rows of the batch, in this order; a row may be repeated."""
        index = mx.array(list(rows))
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys[index], layer.values[index]
        if self.previous is not None:
            self.previous = self.previous[index]
        if self.left_padding is not None:
            self.left_padding = self.left_padding[index]


class PromptCache:
    """The cache of one conversation, so that each turn processes only its own tokens.

    Pass it to `Engine.stream` with every turn. It is used if the new prompt begins with the tokens
    in the cache, and discarded otherwise.
    """

    def __init__(self):
        self.ids: list[int] = []
        self.cache: Cache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.cache.nbytes if self.cache else 0

    def take(self, prompt: Sequence[int]) -> Cache | None:
        """Remove the cache; return it if the prompt begins with `ids` and is longer."""
        ids, cache = self.ids, self.cache
        self.ids, self.cache = [], None
        fits = len(ids) < len(prompt) and list(prompt[: len(ids)]) == ids
        return cache if fits else None

    def store(self, ids: Sequence[int], cache: Cache) -> None:
        """Store a cache and its tokens."""
        self.ids, self.cache = list(ids), cache


def attention_mask(
    tokens: int, window: int, cache: LayerCache | None, left_padding: mx.array | None
) -> mx.array | str | None:
    """Return the mask of `mx.fast.scaled_dot_product_attention` for this many new tokens.

    A token attends to itself and to the `window` tokens before it that are not padding. The mask is
    boolean, (B or 1, 1, T, S), or an equivalent "causal" or None.
    """
    offset = cache.offset if cache else 0
    if left_padding is None:
        if tokens == 1:
            return None
        if offset + tokens <= window + 1:
            return "causal"
    keys = cache.key_positions(tokens) if cache else mx.arange(tokens)
    queries = mx.arange(offset, offset + tokens)[:, None]
    mask = (keys <= queries) & (keys >= queries - window)
    if left_padding is not None:
        first = left_padding[:, None, None]
        # Padding attends to itself, because a softmax over no key is NaN.
        mask = mask & ((keys >= first) | (keys == queries))
        return mask[:, None]
    return mask[None, None]


def _write(buffer: mx.array | None, new: mx.array, begin: int, size: int) -> mx.array:
    """Return the buffer, enlarged if necessary, with `new` at `begin` on axis 2."""
    B, heads, T, dims = new.shape
    capacity = 0 if buffer is None else buffer.shape[2]
    if begin + T > capacity:
        wanted = min(size, -(-(begin + T) // _STEP) * _STEP)
        more = mx.zeros((B, heads, wanted - capacity, dims), new.dtype)
        buffer = more if buffer is None else mx.concatenate([buffer, more], axis=2)
    assert buffer is not None
    buffer[:, :, begin : begin + T] = new
    return buffer
