"""One Muon update of a stack of matrices, as functions of arrays.

All arrays are float32 of shape (matrices, rows, columns). What is linear in the gradient happens
in `momentum_step`, the costly part in `direction`, and the rest in `weight_step`.
"""

import mlx.core as mx

from mlx_muon.arrays import scalar
from mlx_muon.orthogonalize import frobenius_norm, largest_one, nonzero, orthogonalize
from mlx_muon.rules import MuonRule, scale_of

Number = float | mx.array


def momentum_step(
    gradient: mx.array, momentum: mx.array, beta: Number, nesterov: bool
) -> tuple[mx.array, mx.array]:
    """Return (what to orthogonalize, the new momentum).

    The momentum is a mean: a sum, as some papers have it, gives the same direction.
    """
    # Not by way of the difference, which near the largest float32 would be infinite.
    momentum = beta * momentum + (1 - beta) * gradient
    return (beta * momentum + (1 - beta) * gradient if nesterov else momentum), momentum


def direction(update: mx.array, rule: MuonRule, two_streams: bool | None = None) -> mx.array:
    """Return the orthogonalized update."""
    if rule.sign:
        update = mx.sign(update)
    if rule.equalize_rows:
        update = equalize_rows(update)
    found = orthogonalize(
        update, rule.method, rule.steps, rule.norm, dtype=rule.dtype, two_streams=two_streams
    )
    if rule.renormalize:
        size = scalar(min(found.shape[-2:]) ** 0.5)
        found = found * (size / nonzero(frobenius_norm(found)))
    return found


def equalize_rows(x: mx.array) -> mx.array:
    """Return `x` with every row that is not 0 scaled to the same norm."""
    x = largest_one(x)
    norms = mx.sqrt(mx.sum(mx.square(x), axis=-1, keepdims=True))
    return mx.where(norms > 0, x / nonzero(norms), 0.0)


def variance_axis(rule: MuonRule, rows: int, columns: int) -> int | None:
    """Return the axis over which `rule` averages squares; `None`: over none."""
    if rule.variance == "rows" or (rule.variance == "short" and rows >= columns):
        return -1
    return -2 if rule.variance == "short" else None


def variance_shape(rule: MuonRule, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the shape of the running mean of squares for a stack of `shape`."""
    axis = variance_axis(rule, *shape[1:])
    if axis is None:
        return shape
    return (*shape[:-1], 1) if axis == -1 else (shape[0], 1, shape[2])


def equalize_variance(
    update: mx.array, variance: mx.array, beta2: Number, rule: MuonRule
) -> tuple[mx.array, mx.array]:
    """Divide by the root of the running mean of squares, keep the norm; return both."""
    squares = mx.square(update)
    axis = variance_axis(rule, *update.shape[-2:])
    if axis is not None:
        squares = mx.mean(squares, axis=axis, keepdims=True)
    variance = variance + (1 - beta2) * (squares - variance)
    eps = 1e-8 if rule.variance == "entries" else 1e-10
    scaled = update / (mx.sqrt(variance) + eps)
    return scaled * (frobenius_norm(update) / nonzero(frobenius_norm(scaled))), variance


def weight_step(
    weight: mx.array, update: mx.array, rule: MuonRule, rate: Number, weight_decay: Number
) -> mx.array:
    """Return the new weight. Decay uses the old weight, and in "cautious" form only its share."""
    rows, columns = update.shape[-2:]
    scale: Number = scale_of(rule.scale, rows, columns)
    if rule.scale == "rms":
        size = scalar(0.2 * (rows * columns) ** 0.5)
        update = update * (size / nonzero(frobenius_norm(update)))
    step = scalar(rate * scale) * update
    if not isinstance(weight_decay, mx.array) and weight_decay == 0:
        return weight - step
    shrink = scalar(rate * weight_decay * (scale if rule.scale_decay else 1.0))
    if rule.cautious:
        return weight - step - shrink * mx.where(update * weight >= 0, weight, 0.0)
    return weight - step - shrink * weight  # 1 - shrink would round, each step the same way
