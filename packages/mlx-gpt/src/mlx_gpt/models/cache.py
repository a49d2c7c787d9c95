"""Key/value caches: whole texts, attention windows, quantized; the latest tokens can be dropped.

Prompts of different lengths are padded on the left; `left_padding` counts each row's padding.
Positions do not count it, so that a row's keys and values are the same in any batch.
"""

from collections.abc import Sequence

import mlx.core as mx

NO_WINDOW = 1 << 30  # the window of layers that attend to all previous tokens
SLACK = 64  # the latest tokens that can always be dropped, also by layers with a window
STEP = 256  # tokens by which buffers grow


class TokenBuffer:
    """Arrays with the latest tokens on axis 2: at least `window` + `SLACK`, or all there are.

    Tokens stand in their order, so that what is attended to is a slice. When the buffer is full,
    tokens that no window reaches are left behind: once in `STEP` tokens, the others move. There may
    be room for more rows than there are, behind them.
    """

    def __init__(self, window: int):
        self.window = window
        self.parts: list[mx.array] = []  # (B or more, heads, capacity, any) each
        self.offset = 0  # tokens so far
        self.begin = 0  # tokens, padding included, before the first in the arrays
        self.expected = 0  # tokens for which there will be room when the buffer grows

    def append(self, parts: Sequence[mx.array]) -> list[mx.array]:
        """Add (B, heads, T, any) of each part; return the `window` tokens before and the new."""
        held, (B, _, tokens, _) = self.offset - self.begin, parts[0].shape
        if not self.parts or held + tokens > self.parts[0].shape[2]:
            kept = min(held, self.window + SLACK)
            self.begin = self.offset - kept
            room = min(self.expected - self.begin, self.window + SLACK + tokens)
            old = [each[:, :, held - kept : held] for each in self.parts] if held else None
            self.parts = [
                _enlarged(old[i] if old else None, part, room) for i, part in enumerate(parts)
            ]
            held = kept
        for buffer, part in zip(self.parts, parts, strict=True):
            buffer[:B, :, held : held + tokens] = part
        first = max(0, self.offset - self.window) - self.begin
        self.offset += tokens
        return [buffer[:B, :, first : held + tokens] for buffer in self.parts]

    def can_trim(self, count: int) -> bool:
        """Whether the last `count` tokens can be dropped: what remains must fill the window."""
        offset = self.offset - count
        return offset >= 0 and self.begin <= max(0, offset - self.window)

    def trim(self, count: int) -> None:
        """Drop the last tokens; the caller has asked `can_trim`."""
        self.offset -= count

    def take(self, index: mx.array) -> None:
        """Select rows of the batch."""
        self.parts = [part[index] for part in self.parts]


class LayerCache(TokenBuffer):
    """One layer's keys and values, (B, kv_heads, S, head_dim); quantized after `quantize`.

    A token attends to itself and the `window` tokens before it.
    """

    def __init__(self, window: int):
        super().__init__(window)
        self.position: int | mx.array = 0  # of the next token, (B,) if rows differ
        self._bits, self._group_size = 0, 0  # 0: not quantized

    def attend(
        self, q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None
    ) -> mx.array:
        """Store the keys and values of new tokens and return their attention, shaped like `q`.

        `q` (B, heads, T, head_dim); `k` and `v` (B, kv_heads, T, head_dim), heads a multiple of
        kv_heads; `mask` is this layer's of `Cache.masks(T)`, made before the call.
        """
        if not self._bits:
            keys, values = self.append((k, v))
        else:
            group, bits = self._group_size, self._bits
            parts = self.append([*mx.quantize(k, group, bits), *mx.quantize(v, group, bits)])
            keys, values = (
                mx.dequantize(*each, group_size=group, bits=bits, dtype=q.dtype)  # type: ignore[misc]
                for each in (parts[:3], parts[3:])
            )
        return mx.fast.scaled_dot_product_attention(q, keys, values, scale=scale, mask=mask)

    def quantize(self, bits: int, group_size: int) -> None:
        """Store keys and values as affine integers from now on; the cache must be empty."""
        if self.offset:
            raise ValueError(f"quantize the cache before its first token, it has {self.offset}")
        self._bits, self._group_size = bits, group_size

    def store_like(self, other: "LayerCache") -> None:
        """Quantize as another layer does; the cache must be empty or have its arrays."""
        self._bits, self._group_size = other._bits, other._group_size


class Cache:
    """The caches of all layers of a model, and the last embeddings for nanochat's smear."""

    def __init__(self, windows: Sequence[int], left_padding: Sequence[int] | None = None):
        self.layers = [LayerCache(window) for window in windows]
        self.pad(left_padding or ())
        self.embeddings = TokenBuffer(1)  # (B, 1, S, n_embd); empty in models that need none

    @property
    def offset(self) -> int:
        """Tokens so far, padding included."""
        return self.layers[0].offset

    def pad(self, left_padding: Sequence[int]) -> None:
        """State how many tokens of each row are padding; none of any row if it is empty."""
        self.padding = list(left_padding) if any(left_padding) else []
        self.left_padding = mx.array(self.padding) if self.padding else None

    def expect(self, tokens: int) -> None:
        """Make room for so many tokens in all at once, where a window does not need less."""
        for layer in self.layers:
            layer.expected = tokens

    def quantize(self, bits: int, group_size: int) -> None:
        """Store keys and values as `bits` (4 or 8) a number and a scale a group from now on.

        `group_size` (32, 64 or 128) must divide the head size, or MLX refuses the first token.
        """
        if bits not in (4, 8) or group_size not in (32, 64, 128):
            raise ValueError(
                f"keys and values are quantized to 4 or 8 bits in groups of 32, 64 or 128, "
                f"got {bits} and {group_size}"
            )
        for layer in self.layers:
            layer.quantize(bits, group_size)

    def masks(self, tokens: int) -> "list[mx.array | str | None]":
        """Return each layer's mask for this many new tokens; equal windows share a mask.

        Sets the position of the tokens in all layers.
        """
        # Made from numbers, so that `rope.rotate` need not wait for it.
        position: int | mx.array = self.offset
        if self.padding:
            position = mx.array([self.offset - each for each in self.padding])
        for layer in self.layers:
            layer.position = position
        by_window = {
            window: attention_mask(tokens, window, self.layers[0], self.left_padding)
            for window in {layer.window for layer in self.layers}
        }
        return [by_window[layer.window] for layer in self.layers]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[mx.array]:
        """Return all arrays, to evaluate them."""
        return [part for each in self.buffers() for part in each.parts]

    def take(self, rows: Sequence[int]) -> None:
        """Select rows of the batch, in this order; a row may be repeated."""
        index = mx.array(list(rows))
        for each in self.buffers():
            each.take(index)
        if self.padding:
            self.pad([self.padding[row] for row in rows])

    def can_trim(self, count: int) -> bool:
        """Whether `trim` can drop this many tokens: `SLACK` always, more if no window moved on."""
        return all(each.can_trim(count) for each in self.buffers())

    def trim(self, count: int) -> None:
        """Drop the last `count` tokens of all rows; `ValueError` if a layer's window moved on."""
        if not self.can_trim(count):
            raise ValueError(f"cannot drop {count} of {self.offset} tokens: the windows moved on")
        for each in self.buffers():
            each.trim(count)

    def buffers(self) -> list[TokenBuffer]:
        """Return the layers, and the embeddings if there are any."""
        held = [self.embeddings] if self.embeddings.parts else []
        return [*self.layers, *held]


class PromptCache:
    """The cache of one conversation, so that each turn processes only its own tokens.

    Pass it to `Engine.stream` with every turn. What the new prompt and the tokens in the cache have
    in common at their beginning is used again, the rest discarded; see `Cache.trim`.
    """

    def __init__(self):
        self.ids: list[int] = []
        self.cache: Cache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.cache.nbytes if self.cache else 0

    def take(self, prompt: Sequence[int]) -> Cache | None:
        """Remove the cache; return what it has of the prompt, without the last token, or None."""
        ids, cache = self.ids, self.cache
        self.ids, self.cache = [], None
        shared = min(common_prefix(ids, prompt), len(prompt) - 1)
        if cache is None or shared < 1 or not cache.can_trim(len(ids) - shared):
            return None
        cache.trim(len(ids) - shared)
        return cache

    def store(self, ids: Sequence[int], cache: Cache) -> None:
        """Store a cache and its tokens."""
        self.ids, self.cache = list(ids), cache


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common at their beginning."""
    for count, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return count
    return min(len(first), len(second))


def attention_mask(
    tokens: int, window: int, cache: TokenBuffer | None, left_padding: mx.array | None
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
    keys = mx.arange(max(0, offset - window), offset + tokens)
    queries = mx.arange(offset, offset + tokens)[:, None]
    mask = (keys <= queries) & (keys >= queries - window)
    if left_padding is not None:
        first = left_padding[:, None, None]
        # Padding attends to itself, because a softmax over no key is NaN.
        mask = mask & ((keys >= first) | (keys == queries))
        return mask[:, None]
    return mask[None, None]


def row_capacity(rows: int) -> int:
    """Return for how many rows the buffers of a batch have room, so that others can join."""
    return rows if rows < 3 else -(-rows // 4) * 4


def _enlarged(kept: mx.array | None, new: mx.array, room: int) -> mx.array:
    """Return a buffer that begins with `kept` and has room for `new` and for `room` in all."""
    B, heads, T, dims = new.shape
    held, rows = (0, B) if kept is None else (kept.shape[2], min(len(kept), row_capacity(B)))
    room = -(-max(held + T, room) // STEP) * STEP - held
    more = mx.zeros((rows, heads, room, dims), new.dtype)
    return more if kept is None else mx.concatenate([kept[:rows], more], axis=2)
