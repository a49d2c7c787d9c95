"""Losses of logits against classes and labels."""

import mlx.core as mx

from mlx_heads.losses.inputs import (
    blank,
    check_classes,
    check_columns,
    check_elements,
    check_same_shape,
    check_weight,
    expose_wrong_classes,
    kept_elements,
)
from mlx_heads.losses.reduction import Reduction, reduce_losses

ONE_LOGIT = "; for the one logit of a binary head use binary_cross_entropy"


def binary_cross_entropy(
    outputs: mx.array,
    targets: mx.array,
    pos_weight: float | mx.array | None = None,
    label_smoothing: float = 0.0,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the losses of (B,) logits, or of (B, M) for M labels, against targets in 0..1.

    `pos_weight`, a number or (M,), multiplies the loss of the positive class, as in torch's
    `BCEWithLogitsLoss`. `label_smoothing` e moves targets to (1 - e) y + e / 2.
    """
    check_elements(outputs, targets)
    _check_smoothing(label_smoothing)
    kept = kept_elements(targets, sample_weight, ignore_index)
    logits, targets = blank(_float(outputs), kept), blank(_float(targets), kept)
    if label_smoothing:
        targets = (1.0 - label_smoothing) * targets + 0.5 * label_smoothing
    positive = 1.0 if pos_weight is None else pos_weight
    if_positive, if_negative = -_log_sigmoid(logits), -_log_sigmoid(-logits)
    losses = positive * targets * if_positive + (1.0 - targets) * if_negative
    return reduce_losses(losses, kept, sample_weight, reduction)


def cross_entropy(
    outputs: mx.array,
    targets: mx.array,
    class_weights: mx.array | None = None,
    label_smoothing: float = 0.0,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the losses of (B, K) logits against (B,) integer classes in 0..K-1.

    The loss of a target outside 0..K-1 is NaN or infinite, to expose wrong labels.

    With smoothing e the target distribution is (1 - e) onehot + e / K, and `class_weights` (K,)
    multiply its terms. As in torch's `cross_entropy`, "mean" divides by the sum of
    `class_weights[targets]` (times `sample_weight`), not by the number of rows.
    """
    check_classes("cross_entropy", outputs, targets, "K", ONE_LOGIT)
    _check_two_classes(outputs)
    _check_smoothing(label_smoothing)
    classes = outputs.shape[1]
    kept = kept_elements(targets, sample_weight, ignore_index)
    logits, targets = blank(_float(outputs), kept), blank(targets, kept)
    onehot = (targets[:, None] == mx.arange(classes)).astype(mx.float32)  # (B, K)
    distribution = (1.0 - label_smoothing) * onehot + label_smoothing / classes
    mass = None
    if class_weights is not None:
        check_columns("class_weights", class_weights, classes, "K")
        distribution = distribution * _float(class_weights)
        mass = (onehot * class_weights).sum(axis=-1)
    losses = -(distribution * _log_softmax(logits)).sum(axis=-1)
    losses = expose_wrong_classes(losses, targets, classes)
    return reduce_losses(losses, kept, sample_weight, reduction, mass)


def focal_loss(
    outputs: mx.array,
    targets: mx.array,
    gamma: float = 2.0,
    alpha: float | mx.array | None = None,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, equation 5).

    (B,) logits with (B,) targets in 0..1 are binary, (B, M) with (B, M) multilabel: `alpha`, a
    number or (M,), weights the positive class, 1 - alpha the negative one. (B, K) logits with (B,)
    integer classes are multiclass: `alpha` (K,) are class weights. "mean" does not divide by
    `alpha`. With gamma 0 this is the (weighted) cross-entropy.
    """
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    if isinstance(alpha, float | int) and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], or an array of weights, got {alpha}")
    if outputs.ndim == 2 and targets.ndim == 1:
        check_classes("multiclass focal_loss", outputs, targets, "K", "")
        _check_two_classes(outputs)
    else:
        check_elements(outputs, targets)
    kept = kept_elements(targets, sample_weight, ignore_index)
    logits, cleaned = blank(_float(outputs), kept), blank(targets, kept)
    if outputs.shape == targets.shape:
        losses = _binary_focal(logits, _float(cleaned), gamma, alpha)
    else:
        losses = _multiclass_focal(logits, cleaned, gamma, alpha)
    return reduce_losses(losses, kept, sample_weight, reduction)


def asymmetric_loss(
    outputs: mx.array,
    targets: mx.array,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    stop_focus_gradient: bool = False,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the asymmetric loss of (B,) or (B, M) logits against 0/1 (Ridnik et al. 2021).

    With p = sigmoid(z) and p_m = max(p - margin, 0) an element's loss is
    -y (1 - p)^gamma_positive log p - (1 - y) p_m^gamma_negative log(1 - p_m): a negative below the
    margin costs nothing. `stop_focus_gradient` treats both powers as constants, as the authors'
    `disable_torch_grad_focal_loss`. A row's loss is the mean over its labels; the authors add.
    """
    check_elements(outputs, targets)
    if gamma_negative < 0 or gamma_positive < 0:
        raise ValueError(f"gammas must not be negative, got {gamma_negative} and {gamma_positive}")
    if not 0.0 <= margin < 1.0:
        raise ValueError(f"margin must be in [0, 1), got {margin}")
    kept = kept_elements(targets, sample_weight, ignore_index)
    logits, targets = blank(_float(outputs), kept), blank(_float(targets), kept)
    log_positive, log_negative = _log_sigmoid(logits), _log_sigmoid(-logits)
    focus_positive = mx.exp(gamma_positive * log_negative)
    if margin:
        shifted = mx.sigmoid(logits) - margin
        above = shifted > 0
        shifted = mx.where(above, shifted, margin)  # any number whose power has a finite gradient
        focus_negative = shifted**gamma_negative
        log_negative = mx.where(above, mx.log1p(-shifted), 0.0)
    else:
        focus_negative = mx.exp(gamma_negative * log_positive)
    if stop_focus_gradient:
        focus_positive = mx.stop_gradient(focus_positive)
        focus_negative = mx.stop_gradient(focus_negative)
    losses = -targets * focus_positive * log_positive
    losses = losses - (1.0 - targets) * focus_negative * log_negative
    return reduce_losses(losses, kept, sample_weight, reduction)


def r_drop_loss(
    outputs: mx.array,
    other_outputs: mx.array,
    multilabel: bool = False,
    *,
    sample_weight: mx.array | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return (KL(p, q) + KL(q, p)) / 2 of two passes' logits (Wu et al. 2021, equation 2).

    It regularizes dropout: run the model twice on a batch and add this, times a factor of 0.5 to 5,
    to the two task losses. Logits are (B,) binary, (B, K) multiclass, or with `multilabel` (B, M),
    where a row's loss is the mean over its labels.
    """
    check_same_shape("outputs", outputs, other_outputs, "other_outputs")
    if outputs.ndim not in (1, 2) or (multilabel and outputs.ndim == 1):
        shapes = "(B, M)" if multilabel else "(B,) or (B, K)"
        raise ValueError(f"outputs must be {shapes}, got {outputs.shape}")
    kept = None
    if sample_weight is not None:
        check_weight(sample_weight, len(outputs))
        kept = sample_weight != 0
    a, b = blank(_float(outputs), kept), blank(_float(other_outputs), kept)
    if outputs.ndim == 2 and not multilabel:
        log_p, log_q = _log_softmax(a), _log_softmax(b)
        losses = 0.5 * ((mx.exp(log_p) - mx.exp(log_q)) * (log_p - log_q)).sum(axis=-1)
    else:  # the same sum over two classes
        losses = 0.5 * (mx.sigmoid(a) - mx.sigmoid(b)) * (a - b)
        losses = losses.mean(axis=-1) if multilabel else losses
    return reduce_losses(losses, kept, sample_weight, reduction)


def _binary_focal(
    logits: mx.array, targets: mx.array, gamma: float, alpha: float | mx.array | None
) -> mx.array:
    log_positive, log_negative = _log_sigmoid(logits), _log_sigmoid(-logits)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    if_positive = -positive * mx.exp(gamma * log_negative) * log_positive
    if_negative = -negative * mx.exp(gamma * log_positive) * log_negative
    return targets * if_positive + (1.0 - targets) * if_negative


def _multiclass_focal(
    logits: mx.array, targets: mx.array, gamma: float, alpha: float | mx.array | None
) -> mx.array:
    classes = logits.shape[1]
    onehot = targets[:, None] == mx.arange(classes)  # (B, K)
    # p_t is the sigmoid of the true logit minus the logsumexp of the others. 1 - softmax would
    # cancel for a confident prediction.
    logits = _minus_largest(logits)
    rest = mx.logsumexp(mx.where(onehot, -1e38, logits), axis=-1)
    margin = mx.where(onehot, logits, 0.0).sum(axis=-1) - rest
    losses = -mx.exp(gamma * _log_sigmoid(-margin)) * _log_sigmoid(margin)
    if alpha is not None:
        if not isinstance(alpha, mx.array):
            raise TypeError(f"alpha must be an array (K,) of class weights, got {alpha!r}")
        check_columns("alpha", alpha, classes, "K")
        losses = losses * mx.where(onehot, _float(alpha), 0.0).sum(axis=-1)
    return expose_wrong_classes(losses, targets, classes)


def _float(values: mx.array) -> mx.array:
    return values.astype(mx.float32)


def _log_sigmoid(logits: mx.array) -> mx.array:
    # Not z - softplus(z), which would cancel to zero for a confident correct prediction.
    return -mx.logaddexp(-logits, 0.0)


def _log_softmax(logits: mx.array) -> mx.array:
    logits = _minus_largest(logits)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _minus_largest(logits: mx.array) -> mx.array:
    # With logits of 1e4 a loss near 1 would keep only three decimals.
    return logits - mx.stop_gradient(logits.max(axis=-1, keepdims=True))


def _check_two_classes(outputs: mx.array) -> None:
    if outputs.shape[1] < 2:
        raise ValueError(
            f"outputs must have a column for each of 2 or more classes, "
            f"got {outputs.shape}{ONE_LOGIT}"
        )


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
