"""Losses of predicted numbers, quantiles and distributions.

Values are (B,), or (B, T) for T targets a row, whose loss is the mean over the targets.
"""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_heads.losses.inputs import blank, check_elements, kept_elements
from mlx_heads.losses.reduction import Reduction, reduce_losses


def mean_squared_error(
    outputs: mx.array,
    targets: mx.array,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the squared errors."""
    return _of_errors(mx.square, outputs, targets, sample_weight, ignore_index, reduction)


def mean_absolute_error(
    outputs: mx.array,
    targets: mx.array,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the absolute errors; the gradient of an error of 0 is 0."""
    return _of_errors(mx.abs, outputs, targets, sample_weight, ignore_index, reduction)


def huber(
    outputs: mx.array,
    targets: mx.array,
    delta: float = 1.0,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return e^2 / 2 up to an error of `delta`, delta (|e| - delta / 2) beyond."""
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")

    def loss(errors: mx.array) -> mx.array:
        size = mx.abs(errors)
        quadratic = mx.minimum(size, delta)  # never squares a large error, which could overflow
        return quadratic * (size - 0.5 * quadratic)

    return _of_errors(loss, outputs, targets, sample_weight, ignore_index, reduction)


def smooth_l1(
    outputs: mx.array,
    targets: mx.array,
    beta: float = 1.0,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return e^2 / (2 beta) up to an error of `beta`, |e| - beta / 2 beyond: Huber / beta."""
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}; for 0 use mean_absolute_error")

    def loss(errors: mx.array) -> mx.array:
        size = mx.abs(errors)
        quadratic = mx.minimum(size, beta)
        return quadratic / beta * (size - 0.5 * quadratic)

    return _of_errors(loss, outputs, targets, sample_weight, ignore_index, reduction)


def log_cosh(
    outputs: mx.array,
    targets: mx.array,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return log cosh e: about e^2 / 2 for small errors, |e| - log 2 for large ones."""

    def loss(errors: mx.array) -> mx.array:
        size = mx.abs(errors)
        near = mx.log1p(2.0 * mx.square(mx.sinh(0.5 * mx.minimum(size, 1.0))))
        # Its terms cancel for a small error, to a loss of zero or below.
        far = size + mx.log1p(mx.exp(-2.0 * size)) - math.log(2.0)
        return mx.where(size < 1.0, near, far)

    return _of_errors(loss, outputs, targets, sample_weight, ignore_index, reduction)


def mean_squared_log_error(
    outputs: mx.array,
    targets: mx.array,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return (log(1 + output) - log(1 + target))^2, not finite for a value of -1 or below.

    A head whose outputs may fall below -1 trains better with `mean_squared_error` on log1p targets
    (`TargetScaler`), which is the same loss.
    """
    check_elements(outputs, targets)
    kept = kept_elements(targets, sample_weight, ignore_index)
    values, targets = _float(blank(outputs, kept)), _float(blank(targets, kept))
    losses = mx.square(mx.log1p(values) - mx.log1p(targets))
    return reduce_losses(losses, kept, sample_weight, reduction)


def quantile_loss(
    outputs: mx.array,
    targets: mx.array,
    levels: Sequence[float],
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the pinball loss max(q e, (q - 1) e) of e = target - output, averaged over Q `levels`.

    Outputs are (B, T, Q) with (B, T) targets, or (B, Q) or (B, 1, Q) with (B,). They are compared
    in the order given, never sorted. The gradient of an error of 0 is 0.
    """
    if not levels or not all(0.0 < level < 1.0 for level in levels):
        raise ValueError(f"levels must be one or more numbers between 0 and 1, got {levels}")
    targets = _beside_last_axis("quantile_loss", outputs, targets, len(levels), "Q")
    kept = kept_elements(targets, sample_weight, ignore_index)
    values, targets = _float(blank(outputs, kept)), _float(blank(targets, kept))
    errors = targets[..., None] - values
    quantiles = mx.array(list(levels), mx.float32)
    losses = mx.abs(errors) * mx.where(errors > 0, quantiles, 1.0 - quantiles)
    return reduce_losses(losses.mean(axis=-1), kept, sample_weight, reduction)


def gaussian_nll(
    outputs: mx.array,
    targets: mx.array,
    beta: float = 0.0,
    full: bool = False,
    eps: float = 1e-6,
    *,
    sample_weight: mx.array | None = None,
    ignore_index: float | None = None,
    reduction: Reduction = "none",
) -> mx.array:
    """Return (log v + (y - m)^2 / v) / 2, v = max(variance, eps), as torch's `gaussian_nll_loss`.

    Outputs (B, T, 2) hold mean m and log variance; targets are (B, T), or (B,) for T = 1 or for
    (B, 2) outputs. `full` adds log(2 pi) / 2. `beta` multiplies by v^beta without a gradient
    (Seitzer et al. 2022, equation 5): 0.5 keeps rows of large variance from being neglected.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    targets = _beside_last_axis("gaussian_nll", outputs, targets, 2, "2")
    kept = kept_elements(targets, sample_weight, ignore_index)
    values, targets = _float(blank(outputs, kept)), _float(blank(targets, kept))
    log_variance = _at_least(values[..., 1], math.log(eps))
    errors = targets - values[..., 0]
    losses = 0.5 * (log_variance + mx.square(errors) * mx.exp(-log_variance))
    if full:
        losses = losses + 0.5 * math.log(2.0 * math.pi)
    if beta:
        losses = losses * mx.stop_gradient(mx.exp(beta * log_variance))
    return reduce_losses(losses, kept, sample_weight, reduction)


def _of_errors(
    loss: Callable[[mx.array], mx.array],
    outputs: mx.array,
    targets: mx.array,
    sample_weight: mx.array | None,
    ignore_index: float | None,
    reduction: Reduction,
) -> mx.array:
    check_elements(outputs, targets)
    kept = kept_elements(targets, sample_weight, ignore_index)
    losses = loss(_float(blank(outputs, kept)) - _float(blank(targets, kept)))
    return reduce_losses(losses, kept, sample_weight, reduction)


def _float(values: mx.array) -> mx.array:
    return values.astype(mx.float32)


def _beside_last_axis(
    name: str, outputs: mx.array, targets: mx.array, size: int, letter: str
) -> mx.array:
    """Return the targets in the shape of the outputs without their last axis."""
    shape = outputs.shape[:-1]
    if outputs.ndim in (2, 3) and outputs.shape[-1] == size:
        if targets.shape == shape:
            return targets
        if targets.shape == shape[:1] and shape[1:] == (1,):
            return targets[:, None]
    wanted = f"(B, T, {letter}) outputs and (B, T) targets, or (B, {letter}) or (B, 1, {letter})"
    known = f" with {letter} = {size}" if letter != str(size) else ""
    raise ValueError(
        f"{name} takes {wanted} and (B,){known}, got {outputs.shape} and {targets.shape}"
    )


def _at_least(log_variance: mx.array, floor: float) -> mx.array:
    """Floor log v with the gradient of torch, which floors v but lets its gradient pass."""
    floored = mx.maximum(log_variance, floor)
    slope = mx.exp(log_variance - floored)  # v / eps below the floor, 1 above
    change = log_variance - mx.stop_gradient(log_variance)  # 0, with a gradient of 1
    return mx.stop_gradient(floored) + mx.stop_gradient(slope) * change
