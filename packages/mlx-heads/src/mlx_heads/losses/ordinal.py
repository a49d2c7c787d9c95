"""Losses of ordered classes 0..K-1, from K-1 logits of "above class k".

The loss of a target outside 0..K-1 is NaN or infinite, to expose wrong labels.
"""

from typing import Literal, get_args

import mlx.core as mx

from mlx_heads._suggest import did_you_mean
from mlx_heads.losses.inputs import (
    blank,
    check_classes,
    check_columns,
    expose_wrong_classes,
    kept_elements,
)
from mlx_heads.losses.links import LOG_DIFFERENCES
from mlx_heads.losses.reduction import Reduction, reduce_losses

Link = Literal["logit", "probit", "cloglog"]

_BEYOND = 1e30  # a logit for "above -1", which is certain; its negative for "above K-1"


def coral_loss(
    outputs: mx.array,
    targets: mx.array,
    importance_weights: mx.array | None = None,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the sums over k of the binary cross-entropy of logit k against "target > k".

    Outputs are (B, K-1) cumulative logits, targets (B,) integers; `importance_weights` (K-1,)
    weight the terms (Cao et al. 2020, equation 5; equal to coral-pytorch's `coral_loss`).
    """
    check_classes("coral_loss", outputs, targets, "K-1", "")
    kept = kept_elements(targets, sample_weight, ignore_index)
    logits, targets = blank(outputs, kept).astype(mx.float32), blank(targets, kept)
    tasks = logits.shape[1]
    terms = _above_losses(logits, targets)
    if importance_weights is not None:
        check_columns("importance_weights", importance_weights, tasks, "K-1")
        terms = terms * importance_weights.astype(mx.float32)
    losses = expose_wrong_classes(terms.sum(axis=-1), targets, tasks + 1)
    return reduce_losses(losses, kept, sample_weight, reduction)


def corn_loss(
    outputs: mx.array,
    targets: mx.array,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the sums of the binary cross-entropies of a row's conditional tasks.

    Outputs are (B, K-1) logits of "above k, given above k-1", targets (B,) integers. Task k has
    only the rows above k-1 (Shi et al. 2021, equation 7). As in coral-pytorch's `corn_loss`, "mean"
    divides by the number of (row, task) pairs, weighted by `sample_weight`.
    """
    check_classes("corn_loss", outputs, targets, "K-1", "")
    kept = kept_elements(targets, sample_weight, ignore_index)
    logits, targets = blank(outputs, kept).astype(mx.float32), blank(targets, kept)
    tasks = logits.shape[1]
    belongs = targets[:, None] >= mx.arange(tasks)  # (B, K-1)
    losses = mx.where(belongs, _above_losses(logits, targets), 0.0).sum(axis=-1)
    losses = expose_wrong_classes(losses, targets, tasks + 1)
    return reduce_losses(losses, kept, sample_weight, reduction, mx.clip(targets + 1, 0, tasks))


def cumulative_link_loss(
    outputs: mx.array,
    targets: mx.array,
    link: Link = "logit",
    *,
    sample_weight: mx.array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return -log P(y), P(y = k) = G(z_{k-1}) - G(z_k) (McCullagh 1980).

    Outputs are (B, K-1) logits z_k of "above k", which decrease in k; targets (B,) integers. G(z)
    is P(y > k): sigmoid ("logit"), the normal distribution function ("probit") or
    1 - exp(-exp(z)) ("cloglog"). Losses are finite for any finite outputs of float32 squares: a
    gap z_{k-1} - z_k below 1e-6, or negative, counts as 1e-6, and a cloglog output above 80 as 80.
    """
    check_classes("cumulative_link_loss", outputs, targets, "K-1", "")
    if link not in get_args(Link):
        raise ValueError(f"unknown link {link!r}{did_you_mean(str(link), get_args(Link))}")
    kept = kept_elements(targets, sample_weight, ignore_index)
    logits, targets = blank(outputs, kept).astype(mx.float32), blank(targets, kept)
    classes = logits.shape[1] + 1
    known = mx.clip(targets, 0, classes - 1)[:, None]
    ends = mx.full((len(logits), 1), _BEYOND)
    padded = mx.concatenate([ends, logits, -ends], axis=1)  # (B, K+1)
    upper = mx.take_along_axis(padded, known, axis=1)[:, 0]
    lower = mx.take_along_axis(padded, known + 1, axis=1)[:, 0]
    losses = expose_wrong_classes(-LOG_DIFFERENCES[link](upper, lower), targets, classes)
    return reduce_losses(losses, kept, sample_weight, reduction)


def _above_losses(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the (B, K-1) binary cross-entropies of logit k against "target > k"."""
    above = targets[:, None] > mx.arange(logits.shape[1])
    return mx.logaddexp(mx.where(above, -logits, logits), 0.0)
