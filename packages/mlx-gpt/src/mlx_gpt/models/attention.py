"""Attention of whole sequences within a window, a block of queries at a time.

MLX computes the scores of all queries and keys, and in training keeps them. Where a block of
queries is given only the keys that it may attend to, a window of T / 4 needs 3/8 of the scores, and
causal attention without a window 9/16. On 2 CPU cores that takes 0.45 to 0.7 of the time at 1,024
tokens; it has not been timed on a GPU.
"""

import mlx.core as mx

# Queries of a block: fewer are slow, more leave less out.
_SMALLEST_BLOCK = 128
_MOST_BLOCKS = 8


def windowed_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, window: int
) -> mx.array:
    """Return (B, heads, T, head_dim): each token attends to itself and `window` before it.

    `k` and `v` (B, kv_heads, T, head_dim), where heads is a multiple of kv_heads.
    """
    T = q.shape[2]
    block = max(_SMALLEST_BLOCK, -(-T // _MOST_BLOCKS))
    outputs = []
    for begin in range(0, T, block):
        end = min(begin + block, T)
        first = max(0, begin - window)
        outputs.append(
            mx.fast.scaled_dot_product_attention(
                q[:, :, begin:end],
                k[:, :, first:end],
                v[:, :, first:end],
                scale=scale,
                mask=_mask(begin, end, first, window),
            )
        )
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def _mask(begin: int, end: int, first: int, window: int) -> mx.array | str:
    if end - first <= window + 1:
        return "causal"
    queries, keys = mx.arange(begin, end)[:, None], mx.arange(first, end)
    return (keys <= queries) & (keys >= queries - window)
