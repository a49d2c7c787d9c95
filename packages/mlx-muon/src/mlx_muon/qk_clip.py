"""QK-Clip: shrink the query and key weights of heads with large attention logits."""

import mlx.core as mx


def qk_clip(
    q_weight: mx.array, k_weight: mx.array, max_logits: mx.array, tau: float = 100.0
) -> tuple[mx.array, mx.array]:
    """Return the weights, scaled so that no head's largest logit would have exceeded `tau`.

    `max_logits`, (query heads,), has the largest q k / sqrt(head_dim) of each head in the last
    batch, over all processes. The weights are (heads * head_dim, hidden_size); concatenate a bias
    to its weight on the last axis. With fewer key heads than query heads, a key head is scaled by
    the root of the factor that its worst query head needs, each query head by the rest. Call this
    after an update (Kimi K2, arXiv 2507.20534, section 2.1, with alpha = 0.5). It has no effect if
    q and k are normalized after their projections.

    Raises `ValueError` if the heads do not divide the weights.
    """
    q_heads = max_logits.size
    if max_logits.ndim != 1 or not q_heads or q_weight.shape[0] % q_heads:
        raise ValueError(
            f"max_logits must have one number for each query head: shape {max_logits.shape} does "
            f"not divide the {q_weight.shape[0]} rows of q_weight"
        )
    head_dim = q_weight.shape[0] // q_heads
    k_heads = k_weight.shape[0] // head_dim
    if k_weight.shape[0] % head_dim or not k_heads or q_heads % k_heads:
        raise ValueError(
            f"k_weight has {k_weight.shape[0]} rows, not a number of heads of {head_dim} rows that "
            f"{q_heads} query heads could share"
        )
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    logits = max_logits.astype(mx.float32)
    wanted = mx.minimum(1.0, tau / mx.maximum(logits, tau))
    for_keys = mx.sqrt(mx.min(wanted.reshape(k_heads, -1), axis=1))
    for_queries = wanted / mx.repeat(for_keys, q_heads // k_heads)
    return _scale_heads(q_weight, for_queries), _scale_heads(k_weight, for_keys)


def _scale_heads(weight: mx.array, factors: mx.array) -> mx.array:
    heads = weight.astype(mx.float32).reshape(factors.size, -1, weight.shape[-1])
    return (heads * factors[:, None, None]).reshape(weight.shape).astype(weight.dtype)
