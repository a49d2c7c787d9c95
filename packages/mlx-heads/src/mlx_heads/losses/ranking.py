"""Losses of (B,) scores that rank rows within lists, such as the documents of one query."""

import mlx.core as mx

from mlx_heads.losses.inputs import blank, check_same_shape, kept_elements
from mlx_heads.losses.reduction import Reduction, reduce_losses

_MASKED = -1e38  # a score of nothing


def margin_ranking_loss(
    outputs: mx.array,
    other_outputs: mx.array,
    targets: mx.array,
    margin: float = 0.0,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return max(margin - y (output - other), 0) of (B,) pairs of scores, as in torch.

    `targets` y are 1 where the output must rank above the other, -1 where below.
    """
    check_same_shape("outputs", outputs, other_outputs, "other_outputs")
    _check_scores(outputs, targets)
    kept = kept_elements(targets, sample_weight, ignore_index)
    scores, others, signs = (
        blank(each, kept).astype(mx.float32) for each in (outputs, other_outputs, targets)
    )
    losses = mx.maximum(margin - signs * (scores - others), 0.0)
    return reduce_losses(losses, kept, sample_weight, reduction)


def ranknet_loss(
    outputs: mx.array,
    targets: mx.array,
    groups: mx.array | None = None,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return each row's sum of log(1 + exp(s_j - s_i)) over the rows j that it must rank above.

    Those are the rows of a lower target in the same group; `groups` (B,) are list numbers, None
    means one list (Burges et al. 2005, equation 3). "mean" divides by the number of pairs, weighted
    by the `sample_weight` of the upper row. An ignored row is in no pair.
    """
    _check_scores(outputs, targets)
    kept = kept_elements(targets, sample_weight, ignore_index)
    scores = blank(outputs, kept).astype(mx.float32)
    targets = blank(targets, kept)
    pairs = _same_list(len(targets), groups, kept) & (targets[:, None] > targets)
    losses = mx.logaddexp(scores - scores[:, None], 0.0)  # (B, B): j against i
    losses = mx.where(pairs, losses, 0.0).sum(axis=-1)
    # Not a sum of booleans: compiled, MLX 0.30.0 divides by a wrong number of them.
    count = pairs.astype(mx.float32).sum(axis=-1)
    return reduce_losses(losses, kept, sample_weight, reduction, count)


def listnet_loss(
    outputs: mx.array,
    targets: mx.array,
    groups: mx.array | None = None,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return each row's term -P_i log Q_i of the cross-entropy of its list (Cao et al. 2007).

    P and Q are the softmax of targets and of outputs over the rows of a group (the probabilities of
    the first place); `groups` (B,) are list numbers, None means one list. "sum" adds the losses of
    the lists, and "mean" divides by their number, or by the sum of P_i times `sample_weight`. An
    ignored row is in no list.
    """
    _check_scores(outputs, targets)
    kept = kept_elements(targets, sample_weight, ignore_index)
    same = _same_list(len(targets), groups, kept)
    log_p = _log_softmax_of_lists(blank(targets, kept), same)
    log_q = _log_softmax_of_lists(blank(outputs, kept), same)
    first = mx.exp(log_p)
    return reduce_losses(-first * log_q, kept, sample_weight, reduction, first)


def _same_list(rows: int, groups: mx.array | None, kept: mx.array | None) -> mx.array:
    """Return (B, B) booleans: row j is in the list of row i, as is an ignored row in its own."""
    if groups is None:
        same = mx.ones((rows, rows), mx.bool_)
    elif groups.shape != (rows,):
        raise ValueError(f"groups must be (B,) = ({rows},), got {groups.shape}")
    else:
        same = groups[:, None] == groups
    return same if kept is None else same & (kept | mx.eye(rows, dtype=mx.bool_))


def _log_softmax_of_lists(scores: mx.array, same: mx.array) -> mx.array:
    scores = scores.astype(mx.float32)
    largest = mx.where(same, scores, _MASKED).max(axis=-1)  # of each row's list
    largest = mx.stop_gradient(largest)
    # The maximum first, as the others lose their decimals beside a large score.
    beside = mx.where(same, scores - largest[:, None], _MASKED)  # (B, B)
    return scores - largest - mx.logsumexp(beside, axis=-1)


def _check_scores(outputs: mx.array, targets: mx.array) -> None:
    check_same_shape("outputs", outputs, targets)
    if outputs.ndim != 1:
        raise ValueError(f"outputs must be (B,) scores, got {outputs.shape}")
