"""AdamW of one parameter, in float32 (Loshchilov and Hutter 2019, algorithm 2)."""

import math

import mlx.core as mx

from mlx_muon.arrays import scalar
from mlx_muon.muon_step import Number

# The largest power of 2 whose square float32 holds.
LARGEST = 2.0**63


def adamw_step(
    gradient: mx.array,
    weight: mx.array,
    state: dict[str, mx.array],
    betas: tuple[Number, Number],
    eps: float,
    rate: Number,
    weight_decay: Number,
) -> mx.array:
    """Return the new float32 weight, and renew `m`, `v` and `count` in `state`.

    Counts its own updates, so that a parameter unfrozen late has its bias corrected as well.
    Finite entries of the gradient count as at most `LARGEST`: an infinite `v` would stay for ever.
    """
    beta1, beta2 = betas
    state["count"] = state["count"] + 1
    dtype = state["m"].dtype
    capped = mx.clip(gradient, -LARGEST, LARGEST)
    gradient = mx.where(mx.isfinite(gradient), capped, gradient)
    m, v = state["m"].astype(mx.float32), state["v"].astype(mx.float32)
    m = m + (1 - beta1) * (gradient - m)
    v = v + (1 - beta2) * (mx.square(gradient) - v)
    state["m"], state["v"] = m.astype(dtype), v.astype(dtype)
    count = state["count"].astype(mx.float32)
    first = scalar(rate / _bias_correction(beta1, count))
    second = scalar(mx.rsqrt(_bias_correction(beta2, count)))
    if isinstance(weight_decay, mx.array) or weight_decay:
        # Not weight * (1 - ...), which at 1e-6 would be 5 % off in float32.
        weight = weight - scalar(rate * weight_decay) * weight
    return weight - first * m / (mx.sqrt(v) * second + eps)


def _bias_correction(beta: Number, count: mx.array) -> mx.array:
    """Return 1 - beta^count; expm1 keeps the digits that 1 - 0.999 loses in float32 (6e-5)."""
    if isinstance(beta, mx.array):
        return -mx.expm1(count * mx.log(mx.maximum(beta, 1e-30)))
    return -mx.expm1(count * math.log(max(beta, 1e-30)))
