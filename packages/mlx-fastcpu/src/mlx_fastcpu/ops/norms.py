"""LayerNorm and RMSNorm with row sums by BLAS; error 2e-6 of the largest value in the row."""

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from mlx_fastcpu.ops._pieces import apart, custom, row_sum


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> mx.array:
    """Zero mean and unit variance over the last axis of x (..., D), then weight (D,), bias (D,)."""
    normal = _normalizer(float(eps), True)(_wide(x))
    return _scaled(normal, weight, bias).astype(x.dtype)


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    """Unit mean square over the last axis of x (..., D), then weight (D,)."""
    normal = _normalizer(float(eps), False)(_wide(x))
    return _scaled(normal, weight, None).astype(x.dtype)


def _wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


def _scaled(x: mx.array, weight: mx.array | None, bias: mx.array | None) -> mx.array:
    if weight is not None:
        x = apart(x * _wide(weight))
    return x if bias is None else apart(x + _wide(bias))


@cache
def _normalizer(eps: float, centred: bool) -> Callable[[mx.array], mx.array]:
    """x to (x - mean) / sqrt(mean square + eps), rows apart; the mean only when `centred`."""

    def scale(x: mx.array) -> mx.array:
        return apart(mx.rsqrt(row_sum(x * x) * (1 / x.shape[-1]) + eps))

    @custom
    def normalize(x: mx.array) -> tuple[mx.array, mx.array]:
        x = apart(x)
        if centred:
            x = apart(x - row_sum(x) * (1 / x.shape[-1]))
        factor = scale(x)
        return apart(x * factor), factor

    @normalize.vjp
    def _(x: mx.array, gradients: list[mx.array], outputs: list[mx.array]) -> mx.array:
        (gradient, _), (normal, factor) = gradients, outputs
        share = 1 / x.shape[-1]
        gradient = apart(gradient)
        along = apart(normal * apart(row_sum(gradient * normal) * share))
        rest = apart(gradient - along)
        if centred:
            rest = apart(rest - apart(row_sum(gradient) * share))
        return apart(rest * factor)

    return lambda x: normalize(x)[0]
