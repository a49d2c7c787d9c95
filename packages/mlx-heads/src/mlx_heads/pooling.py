"""Pooling of token vectors to one vector per row, independent of padding, and of layers to one."""

from collections.abc import Sequence
from typing import Literal, get_args

import mlx.core as mx
import mlx.nn as nn

from mlx_heads._suggest import did_you_mean

Pooling = Literal["cls", "last", "mean", "max", "attention"]


def pool(hidden: mx.array, attention_mask: mx.array, pooling: str = "mean") -> mx.array:
    """Reduce (B, L, D) to (B, D); poolings joined by a plus, as "cls+mean", are concatenated.

    `attention_mask` is boolean (B, L), true for tokens. "cls" is the first token of the mask, which
    is not position 0 with left padding, "last" the last one; "mean" and "max" are over its tokens.
    Vectors at padding have no effect, even NaN; the result of a row with only padding is 0. The
    mean is computed in float32; the result has the dtype of `hidden`. "attention" has weights: it
    is `AttentionPooling`.
    """
    names = pooling_names(pooling)
    if "attention" in names:
        raise ValueError(
            'pooling "attention" has learned weights: use AttentionPooling, or a head with '
            f"pooling={pooling!r}"
        )
    _check_shapes(hidden, attention_mask)
    parts = [_REDUCTIONS[name](hidden, attention_mask) for name in names]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def pooled_size(hidden_size: int, pooling: str) -> int:
    """Return the width of the pooled vector: `hidden_size` for each pooling joined by a plus."""
    return hidden_size * len(pooling_names(pooling))


def pooling_names(pooling: str) -> list[str]:
    """Split "cls+mean" at the plus; raises `ValueError` for unknown and repeated names."""
    names = str(pooling).split("+")
    valid = get_args(Pooling)
    for name in names:
        if name not in valid:
            raise ValueError(f"unknown pooling {name!r}{did_you_mean(name, valid)}")
    if len(set(names)) < len(names):
        raise ValueError(f"pooling {pooling!r} has the same part twice")
    return names


class AttentionPooling(nn.Module):
    """A mean of the tokens weighted by softmax(h q / sqrt(D)), with one learned query q (D,).

    The query is initialized to zero: training starts from mean pooling.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.query = mx.zeros((hidden_size,))

    def __call__(self, hidden: mx.array, attention_mask: mx.array) -> mx.array:
        """Reduce (B, L, D) to (B, D) in the dtype of `hidden`; 0 for a row of padding only."""
        _check_shapes(hidden, attention_mask)
        kept = _zero_padding(hidden, attention_mask)
        scores = kept @ self.query.astype(mx.float32) / len(self.query) ** 0.5  # (B, L)
        # A finite minimum, not -inf: the softmax of a row of padding only stays finite.
        scores = mx.where(attention_mask, scores, mx.finfo(mx.float32).min)
        weights = mx.softmax(scores, axis=1)
        return (weights[:, None] @ kept)[:, 0].astype(hidden.dtype)


class LayerMix(nn.Module):
    """The hidden states of several layers to one: gamma sum_i softmax(w)_i h_i.

    This is the scalar mix of ELMo (Peters 2018, eq. 1). It is initialized to the mean of the
    layers, with gamma = 1.
    """

    def __init__(self, num_layers: int):
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        super().__init__()
        self.weights = mx.zeros((num_layers,))
        self.gamma = mx.ones((1,))

    def __call__(self, hidden_states: Sequence[mx.array] | mx.array) -> mx.array:
        """Mix a list of `num_layers` arrays (B, L, D), or their stack, to (B, L, D)."""
        if len(hidden_states) != len(self.weights):
            raise ValueError(
                f"this LayerMix has num_layers={len(self.weights)}, "
                f"got hidden states of {len(hidden_states)} layers"
            )
        shares = self.gamma * mx.softmax(self.weights.astype(mx.float32))
        layers = list(hidden_states)
        mixed = sum(shares[i] * layer.astype(mx.float32) for i, layer in enumerate(layers))
        return mx.array(mixed).astype(layers[0].dtype)


def _first(hidden: mx.array, mask: mx.array) -> mx.array:
    first = mx.argmax(mask.astype(mx.int32), axis=1)  # argmax returns the first of equal values
    return _token(hidden, mask, first)


def _last(hidden: mx.array, mask: mx.array) -> mx.array:
    last = mx.argmax(mask * mx.arange(mask.shape[1]), axis=1)
    return _token(hidden, mask, last)


def _token(hidden: mx.array, mask: mx.array, position: mx.array) -> mx.array:
    vectors = mx.take_along_axis(hidden, position[:, None, None], axis=1)[:, 0]  # (B, D)
    return _zero_where_empty(vectors, mask)


def _mean(hidden: mx.array, mask: mx.array) -> mx.array:
    count = mx.maximum(mask.astype(mx.float32).sum(axis=1, keepdims=True), 1.0)
    return (_zero_padding(hidden, mask).sum(axis=1) / count).astype(hidden.dtype)


def _max(hidden: mx.array, mask: mx.array) -> mx.array:
    lowest = mx.array(-mx.inf, hidden.dtype)
    return _zero_where_empty(mx.where(mask[..., None], hidden, lowest).max(axis=1), mask)


def _zero_padding(hidden: mx.array, mask: mx.array) -> mx.array:
    # Not a product: zero times a NaN in the padding would be NaN.
    return mx.where(mask[..., None], hidden.astype(mx.float32), 0.0)


def _zero_where_empty(vectors: mx.array, mask: mx.array) -> mx.array:
    return mx.where(mask.any(axis=1, keepdims=True), vectors, mx.zeros_like(vectors))


_REDUCTIONS = {"cls": _first, "last": _last, "mean": _mean, "max": _max}


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
