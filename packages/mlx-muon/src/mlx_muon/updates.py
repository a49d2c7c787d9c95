"""The arithmetic of one update, as functions of arrays: Muon, AdamW, and bfloat16 weights.

Muon's arrays are float32 stacks of matrices, (matrices, rows, columns). `momentum_step` is linear
in the gradient, `muon_direction` is the expensive part, and `weight_step` does the rest.
"""

import math

import mlx.core as mx

from mlx_muon.orthogonalize import frobenius_norm, largest_one, nonzero, orthogonalize
from mlx_muon.rules import MuonRule, Number

# The largest power of 2 whose square does not overflow float32.
LARGEST = 2.0**63


def momentum_step(
    gradient: mx.array, momentum: mx.array, beta: Number, nesterov: bool
) -> tuple[mx.array, mx.array]:
    """Return (the matrices to orthogonalize, the new momentum).

    The momentum is a running mean; the running sum of some papers gives the same direction.
    """
    # Not momentum + (1 - beta) * difference: near the largest float32 the difference overflows.
    momentum = beta * momentum + (1 - beta) * gradient
    return (beta * momentum + (1 - beta) * gradient if nesterov else momentum), momentum


def muon_direction(update: mx.array, rule: MuonRule, two_streams: bool | None = None) -> mx.array:
    """Return the orthogonalized update."""
    if rule.sign:
        update = mx.sign(update)
    if rule.equalize_rows:
        update = largest_one(update)
        norms = mx.sqrt(mx.sum(mx.square(update), axis=-1, keepdims=True))
        update = mx.where(norms > 0, update / nonzero(norms), 0.0)
    update = orthogonalize(
        update, rule.method, rule.steps, rule.norm, dtype=rule.dtype, two_streams=two_streams
    )
    if rule.renormalize:
        size = _runtime_scalar(min(update.shape[-2:]) ** 0.5)
        update = update * (size / nonzero(frobenius_norm(update)))
    return update


def variance_shape(rule: MuonRule, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the shape of the running mean of squares for a stack of `shape`."""
    axis = _variance_axis(rule, *shape[1:])
    if axis is None:
        return shape
    return (*shape[:-1], 1) if axis == -1 else (shape[0], 1, shape[2])


def equalize_variance(
    update: mx.array, variance: mx.array, beta2: Number, rule: MuonRule
) -> tuple[mx.array, mx.array]:
    """Return (the update over the root of the mean of its squares, same norm; the new mean)."""
    squares = mx.square(update)
    axis = _variance_axis(rule, *update.shape[-2:])
    if axis is not None:
        squares = mx.mean(squares, axis=axis, keepdims=True)
    variance = variance + (1 - beta2) * (squares - variance)
    eps = 1e-8 if rule.variance == "entries" else 1e-10
    scaled = update / (mx.sqrt(variance) + eps)
    return scaled * (frobenius_norm(update) / nonzero(frobenius_norm(scaled))), variance


def _variance_axis(rule: MuonRule, rows: int, columns: int) -> int | None:
    """Return the axis over which `rule` averages squares; `None` for a mean per entry."""
    if rule.variance == "rows" or (rule.variance == "short" and rows >= columns):
        return -1
    return -2 if rule.variance == "short" else None


def weight_step(
    weight: mx.array, update: mx.array, rule: MuonRule, rate: Number, weight_decay: Number
) -> mx.array:
    """Return the new weight; the decay is computed from the old one."""
    rows, columns = update.shape[-2:]
    scale = _rate_scale(rule, rows, columns)
    if rule.scale == "rms":
        size = _runtime_scalar(0.2 * (rows * columns) ** 0.5)
        update = update * (size / nonzero(frobenius_norm(update)))
    step = _runtime_scalar(rate * scale) * update
    if not isinstance(weight_decay, mx.array) and weight_decay == 0:
        return weight - step
    shrink = _runtime_scalar(rate * weight_decay * (scale if rule.scale_decay else 1.0))
    if rule.cautious:
        return weight - step - shrink * mx.where(update * weight >= 0, weight, 0.0)
    return weight - step - shrink * weight  # 1 - shrink would round, the same way in every step


def _rate_scale(rule: MuonRule, rows: int, columns: int) -> float:
    """Return the factor on the learning rate; 1 for "rms", which depends on the update."""
    if rule.scale == "keller":
        return max(1.0, rows / columns) ** 0.5
    if rule.scale == "moonlight":
        return 0.2 * max(rows, columns) ** 0.5
    if rule.scale == "mup":
        return (rows / columns) ** 0.5
    return 1.0


def adamw_step(
    gradient: mx.array,
    weight: mx.array,
    state: dict[str, mx.array],
    betas: tuple[Number, Number],
    eps: float,
    rate: Number,
    weight_decay: Number,
) -> mx.array:
    """Return the new float32 weight; `m`, `v` and `count` in `state` are replaced.

    The updates of each parameter are counted, so that the bias correction is right for parameters
    that are unfrozen late. Finite gradients are clipped to `LARGEST`, because an infinite `v` would
    never decay.
    """
    beta1, beta2 = betas
    state["count"] = state["count"] + 1
    dtype = state["m"].dtype
    clipped = mx.clip(gradient, -LARGEST, LARGEST)
    gradient = mx.where(mx.isfinite(gradient), clipped, gradient)
    m, v = state["m"].astype(mx.float32), state["v"].astype(mx.float32)
    m = m + (1 - beta1) * (gradient - m)
    v = v + (1 - beta2) * (mx.square(gradient) - v)
    state["m"], state["v"] = m.astype(dtype), v.astype(dtype)
    count = state["count"].astype(mx.float32)
    first = _runtime_scalar(rate / _bias_correction(beta1, count))
    second = _runtime_scalar(mx.rsqrt(_bias_correction(beta2, count)))
    if isinstance(weight_decay, mx.array) or weight_decay:
        # Not weight * (1 - ...), which at 1e-6 would be 5 % off in float32.
        weight = weight - _runtime_scalar(rate * weight_decay) * weight
    return weight - first * m / (mx.sqrt(v) * second + eps)


def _bias_correction(beta: Number, count: mx.array) -> mx.array:
    """Return 1 - beta^count, by expm1: in float32 1 - 0.999 has an error of 6e-5."""
    if isinstance(beta, mx.array):
        return -mx.expm1(count * mx.log(mx.maximum(beta, 1e-30)))
    return -mx.expm1(count * math.log(max(beta, 1e-30)))


def _runtime_scalar(value: Number) -> mx.array:
    """Return a number that `mx.compile` does not compile into its kernels as a constant.

    A new constant would need a new kernel, which takes the CPU's compiler half a second.
    """
    return mx.contiguous(mx.array(value, mx.float32))


def split_float32(x: mx.array) -> tuple[mx.array, mx.array]:
    """Return `x` as (bfloat16, rounded to nearest; the lower 16 bits as uint16)."""
    bits = x.view(mx.uint32)
    upper = ((bits + 0x8000) >> 16).astype(mx.uint16)
    return upper.view(mx.bfloat16), (bits & 0xFFFF).astype(mx.uint16)


def join_float32(upper: mx.array, lower: mx.array) -> mx.array:
    """Invert `split_float32`, bit for bit."""
    # Rounding added 1 to the upper half if the lower half is 0x8000 or more. An upper half of 0 in
    # that case was assigned after `split_float32`.
    is_zero = (upper.view(mx.uint16) & 0x7FFF) == 0
    lower = mx.where(is_zero & (lower >= 0x8000), mx.array(0, mx.uint16), lower)
    bits = upper.view(mx.uint16).astype(mx.uint32) - (lower >> 15).astype(mx.uint32)
    return ((bits << 16) | lower.astype(mx.uint32)).view(mx.float32)


def to_float32(weight: mx.array, lower: mx.array | None) -> mx.array:
    """Return the weight in float32, with the lower 16 bits from its state.

    A bfloat16 weight alone loses every relative change below 2^-9, which are most changes late in
    training. After a cast to another dtype the bits still apply to the entries that did not change.
    """
    if lower is None:
        return weight.astype(mx.float32)
    upper = weight.astype(mx.bfloat16)
    joined = join_float32(upper, lower)
    if weight.dtype == mx.bfloat16:
        return joined
    return mx.where(upper.astype(weight.dtype) == weight, joined, weight.astype(mx.float32))
