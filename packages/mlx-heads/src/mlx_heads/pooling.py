"""Pooling of token vectors to one vector per row, independent of padding."""

from typing import Literal, get_args

import mlx.core as mx

from mlx_heads._suggest import did_you_mean

Pooling = Literal["cls", "mean", "max", "mean+max", "cls+mean"]


def pool(hidden: mx.array, attention_mask: mx.array, pooling: Pooling = "mean") -> mx.array:
    """Reduce (B, L, D) to (B, D), or to (B, 2D) for a pooling with a plus.

    `attention_mask` is boolean (B, L), true for tokens. "cls" is the first token of the mask, which
    is not position 0 with left padding. Vectors at padding have no effect, even NaN; the result of
    a row with only padding is 0. The mean is computed in float32; the result has the dtype of
    `hidden`.
    """
    check_pooling(pooling)
    _check_shapes(hidden, attention_mask)
    parts = [_REDUCTIONS[name](hidden, attention_mask) for name in pooling.split("+")]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def pooled_size(hidden_size: int, pooling: Pooling) -> int:
    """Return the width of `pool`'s result: `hidden_size`, twice that for a pooling with a plus."""
    check_pooling(pooling)
    return hidden_size * (pooling.count("+") + 1)


def check_pooling(pooling: str) -> None:
    """Raise `ValueError` with the nearest valid name for an unknown pooling."""
    valid = get_args(Pooling)
    if pooling not in valid:
        raise ValueError(f"unknown pooling {pooling!r}{did_you_mean(str(pooling), valid)}")


def _first(hidden: mx.array, mask: mx.array) -> mx.array:
    first = mx.argmax(mask.astype(mx.int32), axis=1)  # argmax returns the first of equal values
    vectors = mx.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]  # (B, D)
    return _zero_where_empty(vectors, mask)


def _mean(hidden: mx.array, mask: mx.array) -> mx.array:
    # Not a product: zero times a NaN in the padding would be NaN.
    kept = mx.where(mask[..., None], hidden.astype(mx.float32), 0.0)
    count = mx.maximum(mask.astype(mx.float32).sum(axis=1, keepdims=True), 1.0)
    return (kept.sum(axis=1) / count).astype(hidden.dtype)


def _max(hidden: mx.array, mask: mx.array) -> mx.array:
    lowest = mx.array(-mx.inf, hidden.dtype)
    return _zero_where_empty(mx.where(mask[..., None], hidden, lowest).max(axis=1), mask)


def _zero_where_empty(vectors: mx.array, mask: mx.array) -> mx.array:
    return mx.where(mask.any(axis=1, keepdims=True), vectors, mx.zeros_like(vectors))


_REDUCTIONS = {"cls": _first, "mean": _mean, "max": _max}


def _check_shapes(hidden: mx.array, mask: mx.array) -> None:
    if hidden.ndim != 3:
        raise ValueError(f"hidden must have shape (B, L, D), got {hidden.shape}")
    if mask.dtype != mx.bool_:
        raise TypeError(
            f"attention_mask must be boolean, true for tokens; got {mask.dtype}. "
            "Convert a 0/1 mask with mask.astype(mx.bool_)"
        )
    if mask.shape != hidden.shape[:2]:
        raise ValueError(
            f"attention_mask must have shape (B, L) = {hidden.shape[:2]} like hidden, "
            f"got {mask.shape}"
        )
