"""Per-example losses in float32; the caller weights and averages them.

Shapes are checked, but values are not: reading them would break a compiled step. A (B, 1) output
with (B,) targets is an error, because broadcasting would train on B x B pairs.
"""

import mlx.core as mx


def binary_cross_entropy(
    logits: mx.array,
    targets: mx.array,
    pos_weight: float | mx.array | None = None,
    label_smoothing: float = 0.0,
) -> mx.array:
    """Return the (B,) losses of (B,) logits against targets in 0..1.

    `pos_weight` multiplies the loss of the positive class, as in torch's `BCEWithLogitsLoss`.
    `label_smoothing` e moves targets to (1 - e) y + e / 2.
    """
    _check_same_shape("logits", logits, targets)
    _check_smoothing(label_smoothing)
    logits, targets = logits.astype(mx.float32), targets.astype(mx.float32)
    if label_smoothing:
        targets = (1.0 - label_smoothing) * targets + 0.5 * label_smoothing
    positive = 1.0 if pos_weight is None else pos_weight
    # Two softplus terms instead of z - softplus(z), which would cancel to zero for a confident
    # correct prediction.
    if_positive, if_negative = mx.logaddexp(-logits, 0.0), mx.logaddexp(logits, 0.0)
    return positive * targets * if_positive + (1.0 - targets) * if_negative


def cross_entropy(
    logits: mx.array,
    targets: mx.array,
    class_weights: mx.array | None = None,
    label_smoothing: float = 0.0,
) -> mx.array:
    """Return the (B,) losses of (B, K) logits against (B,) integer classes in 0..K-1.

    The loss of a target outside 0..K-1 is NaN (infinity with smoothing), to expose wrong labels.

    With smoothing e the target distribution is (1 - e) onehot + e / K, and `class_weights` (K,)
    multiply its terms, as in torch's `cross_entropy(reduction="none")`. Torch's "mean" divides by
    the sum of `class_weights[targets]`, not by the number of rows.
    """
    _check_classes(logits, targets, class_weights)
    _check_smoothing(label_smoothing)
    classes = logits.shape[1]
    logits = logits.astype(mx.float32)
    onehot = targets[:, None] == mx.arange(classes)  # (B, K)
    distribution = (1.0 - label_smoothing) * onehot.astype(mx.float32) + label_smoothing / classes
    if class_weights is not None:
        distribution = distribution * class_weights.astype(mx.float32)
    # Subtract the maximum first: with logits of 1e4 a loss near 1 would keep only three decimals.
    logits = logits - mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    log_probabilities = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    losses = -(distribution * log_probabilities).sum(axis=-1)
    # Not `where(.., nan)`: compiled CPU kernels of MLX 0.30 and 0.31 do not support NaN constants.
    return losses / onehot.any(axis=-1).astype(mx.float32)


def mean_squared_error(values: mx.array, targets: mx.array) -> mx.array:
    """Return the (B,) squared errors of (B,) values; for (B, T) their means over T."""
    _check_same_shape("values", values, targets)
    return _mean_of_outputs(mx.square(_error(values, targets)))


def huber(values: mx.array, targets: mx.array, delta: float = 1.0) -> mx.array:
    """Return (B,) losses: e^2 / 2 up to an error of `delta`, delta (|e| - delta / 2) beyond.

    For (B, T) values their means over T. Equal to torch's `huber_loss`.
    """
    _check_same_shape("values", values, targets)
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    size = mx.abs(_error(values, targets))
    quadratic = mx.minimum(size, delta)  # never squares a large error, which could overflow
    return _mean_of_outputs(quadratic * (size - 0.5 * quadratic))


def weighted_sum(losses: mx.array, weights: mx.array | None = None) -> tuple[mx.array, mx.array]:
    """Return the scalars (sum of weighted losses, sum of weights); their ratio is the mean.

    Add up both when accumulating over micro-batches: the mean of their means would be wrong.
    """
    weights = mx.ones_like(losses) if weights is None else weights.astype(losses.dtype)
    _check_same_shape("losses", losses, weights, "weights")
    return (losses * weights).sum(), weights.sum()


def _error(values: mx.array, targets: mx.array) -> mx.array:
    return values.astype(mx.float32) - targets.astype(mx.float32)


def _mean_of_outputs(losses: mx.array) -> mx.array:
    return losses if losses.ndim == 1 else losses.mean(axis=-1)


def _check_same_shape(
    name: str, values: mx.array, targets: mx.array, targets_name: str = "targets"
) -> None:
    if values.shape != targets.shape:
        raise ValueError(
            f"{name} and {targets_name} must have the same shape, "
            f"got {values.shape} and {targets.shape}"
        )


def _check_classes(logits: mx.array, targets: mx.array, class_weights: mx.array | None) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"cross_entropy takes (B, K) logits and (B,) targets, got {logits.shape} and "
            f"{targets.shape}; for the one logit of a binary head use binary_cross_entropy"
        )
    if not mx.issubdtype(targets.dtype, mx.integer):
        raise TypeError(f"targets must be integer class numbers, got {targets.dtype}")
    if class_weights is not None and class_weights.shape != logits.shape[1:]:
        raise ValueError(
            f"class_weights must have shape (K,) = {logits.shape[1:]}, got {class_weights.shape}"
        )


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
