"""Bidirectional attention with boolean masks.

An additive mask of -1e9 would overflow to -inf in float16, and a query without any key would become
NaN. Here such a query attends to all keys.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np


def check_inputs(
    input_ids: mx.array | np.ndarray, attention_mask: mx.array | np.ndarray | None
) -> tuple[mx.array, mx.array | None]:
    """Return (B, L) ids and their (B, L) boolean mask as `mx.array`s.

    Raises `ValueError` for other shapes and `TypeError` for a mask of floats, which is
    probably an additive mask.
    """
    input_ids = mx.array(input_ids) if isinstance(input_ids, np.ndarray) else input_ids
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(f"input_ids must be (batch, length), both not 0; got {input_ids.shape}")
    if not mx.issubdtype(input_ids.dtype, mx.integer):
        raise TypeError(f"input_ids must be integers, got {input_ids.dtype}")
    if attention_mask is None:
        return input_ids, None
    if isinstance(attention_mask, np.ndarray):
        attention_mask = mx.array(attention_mask)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids {input_ids.shape}, "
            f"got {attention_mask.shape}"
        )
    if mx.issubdtype(attention_mask.dtype, mx.floating):
        raise TypeError(
            f"attention_mask must be bool or int (1 = token, 0 = padding), "
            f"got {attention_mask.dtype}; use `mask > 0` for a float mask of zeros and ones"
        )
    return input_ids, attention_mask.astype(mx.bool_)


def padding_mask(valid: mx.array | None) -> mx.array | None:
    """Return the mask in which every query attends to the valid keys: (B, L) to (B, 1, 1, L).

    For None (all valid) it returns None.
    """
    if valid is None:
        return None
    return _never_empty(valid[:, None, None, :])


def window_mask(valid: mx.array | None, length: int, reach: int) -> mx.array | None:
    """Return the mask in which query i attends to the valid keys j with |i - j| <= `reach`.

    (B or 1, 1, L, L), or the smaller `padding_mask` if the window covers the whole sequence.
    """
    if length - 1 <= reach:
        return padding_mask(valid)
    positions = mx.arange(length)
    near = (mx.abs(positions[:, None] - positions[None, :]) <= reach)[None, None]
    if valid is None:
        return near
    return _never_empty(near & valid[:, None, None, :])


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    mask: mx.array | None,
    dropout: float = 0.0,
) -> mx.array:
    """Scaled dot-product attention on (B, heads, L, head_dim) arrays; same shape out.

    `dropout` is the dropout probability of the attention weights. The fused kernel does not support
    it; the explicit computation stores the (B, heads, L, L) weights.
    """
    scale = queries.shape[-1] ** -0.5
    if dropout == 0.0:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    scores = (queries * scale) @ keys.swapaxes(-1, -2)  # (B, heads, L, L)
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(scores.dtype).min)
    weights = mx.softmax(scores, axis=-1, precise=True)
    return nn.Dropout(dropout)(weights) @ values


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
