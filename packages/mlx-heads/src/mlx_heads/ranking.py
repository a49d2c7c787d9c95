"""Heads for similarity and order: unit vectors, and one score per row."""

from typing import Unpack

import mlx.core as mx

from mlx_heads.pooled_heads import HeadOptions, PooledHead, check_at_least


class EmbeddingHead(PooledHead):
    """Hidden states to unit vectors (B, size), whose dot products are cosine similarities.

    Train with a contrastive loss, as `multiple_negatives_ranking_loss`. `PooledHead` documents the
    options.
    """

    def __init__(self, hidden_size: int, size: int, **options: Unpack[HeadOptions]):
        check_at_least("size", size, 1)
        super().__init__(hidden_size, size, **options)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.num_outputs,)

    def outputs_of(self, linear: mx.array) -> mx.array:
        """Divide by the L2 norm; a vector of zeros stays zero."""
        linear = linear.astype(mx.float32)
        square = mx.square(linear).sum(axis=-1, keepdims=True)
        # Not a division by max(norm, eps): its gradient at a zero vector would be 1 / eps.
        return linear * mx.rsqrt(mx.where(square > 1e-12, square, 1.0))


class RankingHead(PooledHead):
    """Hidden states to one score per row, (B,); a higher score is ranked first.

    Train with `listnet_loss` or a pairwise loss. `PooledHead` documents the options.
    """

    def __init__(self, hidden_size: int, num_outputs: int = 1, **options: Unpack[HeadOptions]):
        if num_outputs != 1:
            raise ValueError(f"a ranking has one score per row, got num_outputs={num_outputs}")
        super().__init__(hidden_size, 1, **options)
