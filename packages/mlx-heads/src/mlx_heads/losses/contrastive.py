"""Losses of embeddings: pairs, triplets and batches of (B, D) vectors."""

import mlx.core as mx

from mlx_heads.losses.inputs import (
    blank,
    check_same_shape,
    check_weight,
    kept_elements,
)
from mlx_heads.losses.reduction import Reduction, reduce_losses

_MASKED = -1e38  # a similarity of nothing


def contrastive_loss(
    outputs: mx.array,
    other_outputs: mx.array,
    targets: mx.array,
    margin: float = 1.0,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return (y d^2 + (1 - y) max(margin - d, 0)^2) / 2 (Hadsell et al. 2006, equation 4).

    d is the Euclidean distance of the (B, D) pairs; `targets` (B,) are 1 for a similar pair, 0 for
    another. The gradient of a dissimilar pair at distance 0 is 0.
    """
    _check_embeddings(outputs, other_outputs, "other_outputs")
    _check_targets(outputs, targets)
    _check_margin(margin)
    kept = kept_elements(targets, sample_weight, ignore_index)
    distance = _distance(blank(outputs, kept), blank(other_outputs, kept))
    similar = blank(targets, kept).astype(mx.float32)
    apart = mx.maximum(margin - distance, 0.0)
    losses = 0.5 * (similar * mx.square(distance) + (1.0 - similar) * mx.square(apart))
    return reduce_losses(losses, kept, sample_weight, reduction)


def triplet_loss(
    outputs: mx.array,
    positives: mx.array,
    negatives: mx.array,
    margin: float = 1.0,
    *,
    sample_weight: mx.array | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return max(d(output, positive) - d(output, negative) + margin, 0), all (B, D).

    d is the Euclidean distance: torch's `triplet_margin_loss` with `eps=0`.
    """
    _check_embeddings(outputs, positives, "positives")
    _check_embeddings(outputs, negatives, "negatives")
    _check_margin(margin)
    kept = _weighted_rows(outputs, sample_weight)
    anchor = blank(outputs, kept)
    near, far = _distance(anchor, blank(positives, kept)), _distance(anchor, blank(negatives, kept))
    losses = mx.maximum(near - far + margin, 0.0)
    return reduce_losses(losses, kept, sample_weight, reduction)


def multiple_negatives_ranking_loss(
    outputs: mx.array,
    positives: mx.array,
    scale: float = 20.0,
    *,
    sample_weight: mx.array | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the cross-entropy of each output's own positive among all positives of the batch.

    Both are (B, D) unit vectors; logits are `scale` times their dot products (Henderson et al.
    2017, section 4.3). A row of weight 0 is no negative of others either.
    """
    _check_embeddings(outputs, positives, "positives")
    _check_positive("scale", scale)
    kept = _weighted_rows(outputs, sample_weight)
    left = blank(outputs, kept).astype(mx.float32)
    right = blank(positives, kept).astype(mx.float32)
    similarity = scale * left @ right.T
    own = mx.diagonal(similarity)
    if kept is not None:
        similarity = mx.where(kept | mx.eye(len(left), dtype=mx.bool_), similarity, _MASKED)
    losses = mx.logsumexp(similarity - own[:, None], axis=-1)
    return reduce_losses(losses, kept, sample_weight, reduction)


def supervised_contrastive_loss(
    outputs: mx.array,
    targets: mx.array,
    temperature: float = 0.1,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the mean over a row's positives of the cross-entropy among all other rows.

    Outputs are (B, D) unit vectors, logits their dot products over `temperature`, positives the
    other rows with the same target of (B,) (Khosla et al. 2020, equation 2). A row without a
    positive has loss 0 and weight 0. An ignored row is no negative of others either.
    """
    _check_targets(outputs, targets)
    _check_positive("temperature", temperature)
    kept = kept_elements(targets, sample_weight, ignore_index)
    vectors, targets = blank(outputs, kept).astype(mx.float32), blank(targets, kept)
    others = ~mx.eye(len(targets), dtype=mx.bool_)
    if kept is not None:
        others = others & kept
    positive = others & (targets[:, None] == targets)
    count = positive.sum(axis=-1)
    similarity = mx.where(others, vectors @ vectors.T / temperature, _MASKED)
    largest = mx.stop_gradient(similarity.max(axis=-1, keepdims=True))
    similarity = mx.maximum(similarity - largest, _MASKED)
    excess = mx.logsumexp(similarity, axis=-1, keepdims=True) - similarity
    losses = mx.where(positive, excess, 0.0).sum(axis=-1) / mx.maximum(count, 1)
    kept = count > 0 if kept is None else kept & (count > 0)
    return reduce_losses(losses, kept, sample_weight, reduction)


def _distance(left: mx.array, right: mx.array) -> mx.array:
    difference = left.astype(mx.float32) - right.astype(mx.float32)
    squared = mx.square(difference).sum(axis=-1)
    apart = squared > 0  # the gradient of sqrt at 0 is infinite
    return mx.where(apart, mx.sqrt(mx.where(apart, squared, 1.0)), 0.0)


def _weighted_rows(outputs: mx.array, sample_weight: mx.array | None) -> mx.array | None:
    if sample_weight is None:
        return None
    check_weight(sample_weight, len(outputs))
    return sample_weight != 0


def _check_embeddings(outputs: mx.array, others: mx.array, name: str) -> None:
    check_same_shape("outputs", outputs, others, name)
    if outputs.ndim != 2:
        raise ValueError(f"outputs must be (B, D), got {outputs.shape}")


def _check_targets(outputs: mx.array, targets: mx.array) -> None:
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"outputs must be (B, D) and targets (B,), got {outputs.shape} and {targets.shape}"
        )


def _check_margin(margin: float) -> None:
    if margin < 0:
        raise ValueError(f"margin must not be negative, got {margin}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
