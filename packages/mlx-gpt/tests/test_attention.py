"""Attention in blocks is attention with a window."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.models.layers import windowed_attention


def whole(q, k, v, scale, window):
    """Attention of all queries and keys at once, in float64 of NumPy."""
    q, k, v = (np.array(each, np.float64) for each in (q, k, v))
    k, v = (each.repeat(q.shape[1] // k.shape[1], axis=1) for each in (k, v))
    scores = scale * q @ k.swapaxes(-1, -2)
    queries, keys = np.mgrid[: q.shape[2], : q.shape[2]]
    scores[..., (keys > queries) | (keys < queries - window)] = -np.inf
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True) @ v


def drawn(T, heads=2, kv_heads=2):
    keys = mx.random.split(mx.random.key(T), 3)
    return [mx.random.normal((2, count, T, 8), key=key)
            for count, key in zip((heads, kv_heads, kv_heads), keys, strict=True)]  # fmt: skip


@pytest.mark.parametrize("T", [1, 2, 127, 128, 129, 300, 513])
@pytest.mark.parametrize("window", [1, 128, 200, 1000])
def test_blocks_equal_the_whole(T, window):
    q, k, v = drawn(T)
    ours = windowed_attention(q, k, v, 0.5, window)
    np.testing.assert_allclose(ours, whole(q, k, v, 0.5, window), atol=1e-5)


def test_queries_may_share_keys_and_values():
    q, k, v = drawn(260, heads=4, kv_heads=2)
    ours = windowed_attention(q, k, v, 0.5, 128)
    np.testing.assert_allclose(ours, whole(q, k, v, 0.5, 128), atol=1e-5)


def test_gradients_equal_those_of_the_whole():
    q, k, v = drawn(300)
    positions = mx.arange(300)
    mask = (positions <= positions[:, None]) & (positions >= positions[:, None] - 128)

    def blocks(q, k, v):
        return (windowed_attention(q, k, v, 0.5, 128) * v).sum()

    def at_once(q, k, v):
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, mask=mask)
        return (y * v).sum()

    ours = mx.grad(blocks, (0, 1, 2))(q, k, v)
    theirs = mx.grad(at_once, (0, 1, 2))(q, k, v)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-5)
