"""Rotary position embeddings (Su et al. 2021) from whole vectors, with a gradient as cheap."""

import math

import mlx.core as mx

from mlx_fastcpu.ops._pieces import apart, custom


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
    """As `mx.fast.rope`: turn the first `dims` of the last axis of x (B, ..., L, D) by position.

    Error 1e-6 times the largest value up to position 1000, growing with the position as float32
    angles do.
    """
    if traditional:
        raise ValueError("only traditional=False is computed here")
    cos, sin = _angles(x.shape[-2], dims, base, scale, offset, freqs)
    if isinstance(offset, mx.array) and offset.ndim:  # one offset a sequence: (B, 1, ..., L, D)
        shape = (cos.shape[0], *[1] * (x.ndim - 3), *cos.shape[1:])
        cos, sin = cos.reshape(shape), sin.reshape(shape)
    wide = x.astype(mx.float32)
    if dims == x.shape[-1]:
        return _turn(wide, cos, sin).astype(x.dtype)
    turned = _turn(apart(wide[..., :dims]), cos, sin)
    return mx.concatenate([turned, wide[..., dims:]], axis=-1).astype(x.dtype)


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


def _turned(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    half = x.shape[-1] // 2
    swapped = apart(mx.concatenate([x[..., half:], x[..., :half]], axis=-1))
    return apart(apart(x * cos) + apart(swapped * sin))


@custom
def _turn(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return _turned(apart(x), cos, sin)


@_turn.vjp
def _(inputs, gradient, _):
    # The gradient of a turn is the turn back.
    _, cos, sin = inputs
    return _turned(apart(gradient), cos, -sin), mx.zeros_like(cos), mx.zeros_like(sin)
