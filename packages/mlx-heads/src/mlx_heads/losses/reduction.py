"""From the losses of elements to those of rows, and to their weighted sum or mean."""

from typing import Literal, get_args

import mlx.core as mx

from mlx_heads._suggest import did_you_mean
from mlx_heads.losses.inputs import check_same_shape

Reduction = Literal["none", "mean", "sum"]


def reduce_losses(
    losses: mx.array,
    kept: mx.array | None,
    sample_weight: mx.array | None,
    reduction: Reduction,
    mass: mx.array | None = None,
) -> mx.array:
    """Return (B,) weighted losses, their sum, or their sum over the sum of weights.

    The loss of a row of (B, M) `losses` is the mean over its `kept` elements. A row's weight in the
    mean is `sample_weight` times `mass` (B,), such as its class weight: a factor that its loss
    already contains.
    """
    if reduction not in get_args(Reduction):
        near = did_you_mean(str(reduction), get_args(Reduction))
        raise ValueError(f"unknown reduction {reduction!r}{near}")
    weights = mx.ones(len(losses)) if sample_weight is None else sample_weight.astype(mx.float32)
    if kept is not None:
        losses = losses * kept
        if losses.ndim == 2:
            losses = losses.sum(axis=-1) / mx.maximum(kept.sum(axis=-1), 1)
            kept = kept.any(axis=-1)
        weights = weights * kept
    elif losses.ndim == 2:
        losses = losses.mean(axis=-1)
    losses = losses * weights
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    total = (weights if mass is None else weights * mass.astype(mx.float32)).sum()
    return losses.sum() / mx.where(total != 0, total, 1.0)


def weighted_sum(losses: mx.array, weights: mx.array | None = None) -> tuple[mx.array, mx.array]:
    """Return the scalars (sum of weighted losses, sum of weights); their ratio is the mean.

    Add up both when accumulating over micro-batches: the mean of their means would be wrong.
    """
    weights = mx.ones_like(losses) if weights is None else weights.astype(losses.dtype)
    check_same_shape("losses", losses, weights, "weights")
    return (losses * weights).sum(), weights.sum()
