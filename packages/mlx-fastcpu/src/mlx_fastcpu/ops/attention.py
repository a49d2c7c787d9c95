"""Attention with few passes over the scores, and rotary position embeddings."""

import math

import mlx.core as mx

from mlx_fastcpu.ops.primitives import (
    barrier,
    custom,
    fused_exp,
    row_max,
    row_sum,
    sum_to_shape,
)

# Large enough to remove a position. Finite, so that a row without any allowed position becomes the
# mean of the values, as in MLX, and not NaN.
_FORBIDDEN = -1e9


def attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None = None
) -> mx.array:
    """Scaled dot product attention, (B, heads, L, D) from q (B, heads, L, D), k and v (B, h, S, D).

    `heads` is a multiple of h. `mask` broadcasts to (B, heads, L, S): boolean (true: attend), or
    added to the scores; "causal" aligns the last query with the last key. Error 3e-6.
    """
    dtype, (B, heads, L, D), (_, kv_heads, S, _) = mx.result_type(q, k, v), q.shape, k.shape
    q, k, v = (each.astype(mx.float32) for each in (q, k, v))
    q = barrier(barrier(q) * scale)  # first contiguous: on a view of heads the product is scalar
    # Heads that share keys are more queries of one head, so that keys need not be repeated.
    q = q.reshape(B, kv_heads, heads // kv_heads, L, D)
    if L == S:  # otherwise they are of a cache, whose rows are contiguous
        k, v = barrier(k), barrier(v)
    if mask is None:
        found = _attend(_flat(q), k, v)[0]
    else:
        added = _added(mask, L, S)
        if added.ndim > 2:
            *batch, of_heads, _, _ = added.shape
            groups = (kv_heads, heads // kv_heads) if of_heads > 1 else (1, 1)
            added = added.reshape(*batch, *groups, *added.shape[-2:])
        found = _attend_masked(q, k, v, added)[0]
    return found.reshape(B, heads, L, D).astype(dtype)


def _flat(x: mx.array) -> mx.array:
    """(B, kv_heads, groups, L, any) to (B, kv_heads, groups * L, any)."""
    return x.flatten(2, 3)


def _added(mask: mx.array | str, queries: int, keys: int) -> mx.array:
    if isinstance(mask, str):
        if mask != "causal":
            raise ValueError(f"mask must be an array, 'causal' or None, got {mask!r}")
        rows = mx.arange(keys - queries, keys)[:, None]
        mask = mx.arange(keys)[None] <= rows
    if mask.dtype == mx.bool_:
        return mx.where(mask, mx.array(0.0), mx.array(_FORBIDDEN))
    return mask.astype(mx.float32)


def rope(
    x: mx.array,
    dims: int,
    *,
    traditional: bool = False,
    base: float | None = 10000.0,
    scale: float = 1.0,
    offset: int | mx.array = 0,
    freqs: mx.array | None = None,
) -> mx.array:
    """Rotary position embeddings (Su et al. 2021), as `mx.fast.rope`, of x (B, ..., L, D).

    Rotates the first `dims` of the last axis. The error is 1e-6 times the largest value up to
    position 1000, and grows with the position like that of float32 angles.
    """
    if traditional:
        raise ValueError("rope supports traditional=False only")
    cos, sin = _angles(x.shape[-2], dims, base, scale, offset, freqs)
    if isinstance(offset, mx.array) and offset.ndim:  # one offset per sequence: (B, 1, ..., L, D)
        shape = (cos.shape[0], *[1] * (x.ndim - 3), *cos.shape[1:])
        cos, sin = cos.reshape(shape), sin.reshape(shape)
    wide = x.astype(mx.float32)
    if dims == x.shape[-1]:
        return _rotate(wide, cos, sin).astype(x.dtype)
    rotated = _rotate(barrier(wide[..., :dims]), cos, sin)
    return mx.concatenate([rotated, wide[..., dims:]], axis=-1).astype(x.dtype)


def _weigh(scores: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Normalize after the product with v, which has head_dim columns instead of S."""
    powers = fused_exp(scores - row_max(scores))
    share = barrier(1 / row_sum(powers))
    return barrier((powers @ v) * share), powers, share


def _backward(
    inputs: list[mx.array], gradients: list[mx.array], outputs: list[mx.array]
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Gradients of q, k, v and the scores (Dao et al. 2022, appendix B.2)."""
    q, k, v, *_ = inputs
    output, powers, share = outputs
    gradient = barrier(gradients[0])
    weights = barrier(powers * share)
    delta = row_sum(gradient * output)
    scores = barrier(weights * barrier(gradient @ v.swapaxes(-1, -2) - delta))
    transposed = scores.swapaxes(-1, -2)
    return scores @ k, transposed @ q, weights.swapaxes(-1, -2) @ gradient, scores


@custom
def _attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    return _weigh(barrier(q @ k.swapaxes(-1, -2)), v)


@_attend.vjp
def _(inputs, gradients, outputs):
    return _backward(inputs, gradients, outputs)[:3]


@custom
def _attend_masked(
    q: mx.array, k: mx.array, v: mx.array, added: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Of q (B, kv_heads, groups, L, D); the others, and what it returns, are as of `_attend`."""
    scores = barrier(_flat(q) @ k.swapaxes(-1, -2)).reshape(*q.shape[:-1], k.shape[-2])
    return _weigh(_flat(barrier(scores + added)), v)


@_attend_masked.vjp
def _(inputs, gradients, outputs):
    q, k, v, added = inputs
    *others, scores = _backward([_flat(q), k, v], gradients, outputs)
    others[0] = others[0].reshape(q.shape)
    scores = scores.reshape(*q.shape[:-1], k.shape[-2])
    return *others, sum_to_shape(scores, added.shape)


def _angles(
    length: int,
    dims: int,
    base: float | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None,
) -> tuple[mx.array, mx.array]:
    """Cosines, and sines with the sign of each half: (..., L, dims)."""
    if freqs is None:
        assert base is not None
        steps = mx.arange(0, dims, 2, dtype=mx.float32) * (-math.log(base) / dims)
        inverse = mx.exp(steps)
    else:
        inverse = 1 / freqs.astype(mx.float32)
    positions = mx.arange(length, dtype=mx.float32)
    if isinstance(offset, mx.array):
        positions = positions + offset.astype(mx.float32)[..., None]
    else:
        positions = positions + float(offset)
    angles = (positions * scale)[..., None] * inverse
    cos, sin = mx.cos(angles), mx.sin(angles)
    return mx.concatenate([cos, cos], -1), mx.concatenate([-sin, sin], -1)


def _rotated(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    half = x.shape[-1] // 2
    swapped = barrier(mx.concatenate([x[..., half:], x[..., :half]], axis=-1))
    return barrier(barrier(x * cos) + barrier(swapped * sin))


@custom
def _rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return _rotated(barrier(x), cos, sin)


@_rotate.vjp
def _(inputs, gradient, _):
    # The gradient of a rotation is the inverse rotation.
    _, cos, sin = inputs
    return _rotated(barrier(gradient), cos, -sin), mx.zeros_like(cos), mx.zeros_like(sin)
