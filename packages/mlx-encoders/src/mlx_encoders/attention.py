"""Bidirectional attention with boolean masks: whole sequences, windows, packed rows.

An additive mask of -1e9 would overflow to -inf in float16, and a query without any key would become
NaN. Here such a query attends to all keys.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

# From this length on, in units of the reach, blocks are faster than a mask over all keys. Measured
# on a CPU for a reach of 64: equal at 256 tokens, 2.5 times faster at 512, 11 times at 2048.
_BLOCKS_FROM = 4


@dataclass
class Context:
    """What the attention layers of one forward pass have in common.

    `valid` (B, L) is true for tokens, None without padding. Tokens attend within their segment of
    `segments` (B, L). `positions` (B, L) replace 0 to L - 1 in rotary embeddings. Attention weights
    (B, heads, L, L) are appended to `weights` unless it is None.
    """

    length: int
    valid: mx.array | None = None
    segments: mx.array | None = None
    positions: mx.array | None = None
    weights: list[mx.array] | None = None
    key: mx.array | None = None
    """Of the dropout of one layer, so that a layer that is computed again drops the same."""
    _masks: dict[int | None, "mx.array | BlockMask | None"] = field(default_factory=dict)

    def prepare(self, reaches: Iterable[int | None], explicit: bool) -> None:
        """Build the masks of these windows; `explicit` attention needs them over all keys.

        Not at first use: that may be inside of a checkpointed layer, whose arrays must not escape.
        """
        for reach in reaches:
            if reach is None or self.length - 1 <= reach:
                self._masks[reach] = padding_mask(self.valid, self.segments)
            elif explicit or self.length < _BLOCKS_FROM * reach:
                self._masks[reach] = window_mask(self.valid, self.length, reach, self.segments)
            else:
                self._masks[reach] = BlockMask.build(self, reach)

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        reach: int | None = None,
        dropout: float = 0.0,
    ) -> mx.array:
        """Attend to the keys at most `reach` tokens away (None: all); (B, heads, L, head_dim)."""
        mask = self._masks[reach]
        if isinstance(mask, BlockMask):
            return mask.attend(queries, keys, values)
        drop = partial(self.drop, probability=dropout) if dropout else None
        return attend(queries, keys, values, mask, drop, self.weights)

    def drop(self, x: mx.array, probability: float) -> mx.array:
        """Dropout with a part of the key; each call uses another."""
        if probability == 0:
            return x
        assert self.key is not None
        self.key, key = mx.random.split(self.key)
        return x * mx.random.bernoulli(1 - probability, x.shape, key) * (1 / (1 - probability))

    def rotate(self, x: mx.array, base: float) -> mx.array:
        """Rotary position embeddings (Su et al. 2021) of x (B, heads, L, head_dim), by halves."""
        if self.positions is None:
            return mx.fast.rope(x, x.shape[-1], traditional=False, base=base, scale=1.0, offset=0)
        half = x.shape[-1] // 2
        speeds = mx.power(base, -mx.arange(half, dtype=mx.float32) / half)
        angles = self.positions[:, None, :, None].astype(mx.float32) * speeds  # (B, 1, L, half)
        cos, sin = mx.cos(angles), mx.sin(angles)
        first, second = x[..., :half].astype(mx.float32), x[..., half:].astype(mx.float32)
        turned = [first * cos - second * sin, second * cos + first * sin]
        return mx.concatenate(turned, axis=-1).astype(x.dtype)


@dataclass
class BlockMask:
    """Window attention by blocks of queries, without scores for far keys.

    Each block of `size` queries has the keys of its own and the two neighbouring blocks. `allowed`
    is (B * blocks or blocks, 1, size, 3 * size).
    """

    size: int
    blocks: int
    allowed: mx.array

    @classmethod
    def build(cls, context: Context, reach: int) -> "BlockMask":
        """Build the mask of a window of `reach` keys on each side."""
        size = reach
        blocks = -(-context.length // size)
        near = mx.abs(mx.arange(3 * size)[None] - mx.arange(size, 2 * size)[:, None]) <= reach
        valid = context.valid
        if valid is None:
            valid = mx.ones((1, context.length), dtype=mx.bool_)
        # The columns before and after the sequence are padding, hence false.
        keys = _neighbours(valid[..., None], size, blocks)[..., 0]  # (B, blocks, 3 * size)
        allowed = near & keys[:, :, None, :]  # (B, blocks, size, 3 * size)
        if context.segments is not None:
            segments = context.segments[..., None]
            theirs = _neighbours(segments, size, blocks)[..., 0]
            own = _padded(segments, 0, size * blocks - context.length)
            allowed = allowed & (own.reshape(-1, blocks, size, 1) == theirs[:, :, None, :])
        return cls(size, blocks, _never_empty(allowed)[:, :, None])

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """Attend within the window; (B, heads, L, head_dim) in and out."""
        B, heads, L, head_dim = queries.shape
        n, size = self.blocks, self.size
        blocks = _padded(queries, 0, n * size - L).reshape(B, heads, n, size, head_dim)
        allowed = mx.broadcast_to(self.allowed, (B, *self.allowed.shape[1:]))
        out = mx.fast.scaled_dot_product_attention(
            blocks.swapaxes(1, 2).reshape(B * n, heads, size, head_dim),
            _neighbours(keys, size, n).swapaxes(1, 2).reshape(B * n, heads, 3 * size, head_dim),
            _neighbours(values, size, n).swapaxes(1, 2).reshape(B * n, heads, 3 * size, head_dim),
            scale=head_dim**-0.5,
            mask=allowed.reshape(B * n, 1, size, 3 * size),
        )
        out = out.reshape(B, n, heads, size, head_dim).swapaxes(1, 2)
        return out.reshape(B, heads, n * size, head_dim)[:, :, :L]


def padding_mask(valid: mx.array | None, segments: mx.array | None = None) -> mx.array | None:
    """Return the mask in which a query attends to the valid keys of its segment.

    (B, 1, 1, L), or (B, 1, L, L) with segments; None if nothing is masked.
    """
    if segments is None:
        return None if valid is None else _never_empty(valid[:, None, None, :])
    same = (segments[:, :, None] == segments[:, None, :])[:, None]
    return _never_empty(same if valid is None else same & valid[:, None, None, :])


def window_mask(
    valid: mx.array | None, length: int, reach: int, segments: mx.array | None = None
) -> mx.array | None:
    """Return the mask in which query i attends to the valid keys j with |i - j| <= `reach`.

    (B or 1, 1, L, L), or the smaller `padding_mask` if the window covers the whole sequence.
    """
    if length - 1 <= reach:
        return padding_mask(valid, segments)
    positions = mx.arange(length)
    near = (mx.abs(positions[:, None] - positions[None, :]) <= reach)[None, None]
    if segments is not None:
        near = near & (segments[:, :, None] == segments[:, None, :])[:, None]
    if valid is not None:
        near = near & valid[:, None, None, :]
    return _never_empty(near)


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    mask: mx.array | None,
    drop: Callable[[mx.array], mx.array] | None = None,
    kept: list[mx.array] | None = None,
) -> mx.array:
    """Scaled dot-product attention on (B, heads, L, head_dim) arrays; same shape out.

    `drop` is applied to the attention weights, which are then appended to `kept`. The fused kernel
    supports neither; the explicit computation stores the (B, heads, L, L) weights.
    """
    scale = queries.shape[-1] ** -0.5
    if drop is None and kept is None:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    scores = (queries * scale) @ keys.swapaxes(-1, -2)  # (B, heads, L, L)
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(scores.dtype).min)
    weights = mx.softmax(scores, axis=-1, precise=True)
    weights = weights if drop is None else drop(weights)
    if kept is not None:
        kept.append(weights)
    return weights @ values


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(B, L, heads * head_dim) to (B, heads, L, head_dim)."""
    B, L, D = x.shape
    return x.reshape(B, L, heads, D // heads).swapaxes(1, 2)


def merge_heads(x: mx.array) -> mx.array:
    """(B, heads, L, head_dim) to (B, L, heads * head_dim)."""
    B, heads, L, head_dim = x.shape
    return x.swapaxes(1, 2).reshape(B, L, heads * head_dim)


def _never_empty(mask: mx.array) -> mx.array:
    """Let queries without keys attend to all keys, so that no kernel returns NaN for them."""
    return mask | ~mask.any(axis=-1, keepdims=True)


def _padded(x: mx.array, before: int, after: int) -> mx.array:
    """Pad the second last axis with zeros."""
    return mx.pad(x, [(0, 0)] * (x.ndim - 2) + [(before, after), (0, 0)])


def _neighbours(x: mx.array, size: int, blocks: int) -> mx.array:
    """(..., L, D) to (..., blocks, 3 * size, D): each block with the ones before and after it."""
    *outer, L, D = x.shape
    padded = _padded(x, size, (blocks + 1) * size - L).reshape(*outer, blocks + 2, size, D)
    shifted = [padded[..., i : i + blocks, :, :] for i in range(3)]
    return mx.concatenate(shifted, axis=-2)
