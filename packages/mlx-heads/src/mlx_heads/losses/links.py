"""log(G(upper) - G(lower)) of three distribution functions G, without cancellation.

Probabilities near 0 or 1, or near each other, would lose all digits as a difference in float32.
"""

import math

import mlx.core as mx
import numpy as np

_GAP = 1e-6  # the smallest upper - lower; below, the difference has no logarithm
_LARGEST_EXPONENT = 80.0  # exp(80) is 5.5e34, near the end of float32
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(24)


def _logit(upper: mx.array, lower: mx.array) -> mx.array:
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
    log_ends = -mx.logaddexp(-upper, 0.0) - mx.logaddexp(lower, 0.0)
    return log_ends + _log_one_minus_exp(_gap(upper, lower))


def _cloglog(upper: mx.array, lower: mx.array) -> mx.array:
    # exp(-e^b) - exp(-e^a) = exp(-e^b) (1 - exp(-d)), d = e^a - e^b
    gap = _gap(upper, lower)
    upper, lower = mx.minimum(upper, _LARGEST_EXPONENT), mx.minimum(lower, _LARGEST_EXPONENT)
    log_d = upper + _log_one_minus_exp(gap)
    d = mx.exp(log_d)
    small = log_d - 0.5 * d  # for log(1 - exp(-d)), whose argument underflows
    large = _log_one_minus_exp(mx.maximum(d, 5e-4))
    return mx.where(d < 1e-3, small, large) - mx.exp(lower)


def _log_one_minus_exp(gap: mx.array) -> mx.array:
    """Return log(1 - exp(-gap)) for a positive gap."""
    # The bounds keep the side that is not chosen finite, and are off the point of choice, where
    # they would have no gradient.
    near = mx.log(-mx.expm1(-mx.minimum(gap, 2.0)))
    return mx.where(gap < 1.0, near, mx.log1p(-mx.exp(-mx.maximum(gap, 0.5))))


def _gap(upper: mx.array, lower: mx.array) -> mx.array:
    return mx.maximum(upper - lower, _GAP)


@mx.custom_function
def _probit(upper: mx.array, lower: mx.array) -> mx.array:
    peak, _, _, integral = _normal_integral(upper, lower)
    return mx.log(integral) - 0.5 * mx.square(peak) - 0.5 * math.log(2.0 * math.pi)


@_probit.vjp
def _probit_gradient(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array]:
    # d log P / d upper is the density there over P; the factor exp(-peak^2 / 2) cancels.
    peak, to_upper, to_lower, integral = _normal_integral(*primals)
    at_upper, at_lower = _relative_density(peak, to_upper), _relative_density(peak, to_lower)
    return cotangent * at_upper / integral, -cotangent * at_lower / integral


def _normal_integral(
    upper: mx.array, lower: mx.array
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Return the point of the largest density, the ends minus it, and the relative integral.

    The integral of exp((peak^2 - x^2) / 2) from `lower` to `upper` is taken by Gauss-Legendre
    quadrature over the part where the density is above exp(-20) of its largest.
    """
    # The ends are distances from the peak: a large `upper` minus _GAP would round to `upper`.
    gap, lower = _gap(upper, lower), mx.minimum(lower, upper)
    peak = mx.clip(mx.zeros_like(upper), lower, upper)
    to_upper, to_lower = mx.clip(upper, 0.0, gap), mx.clip(lower, -gap, 0.0)
    to_lower = mx.where(gap > _GAP, to_lower, to_upper - gap)
    size = mx.abs(peak)
    reach = 40.0 / (size + mx.sqrt(mx.square(size) + 40.0))  # size r + r^2 / 2 = 20
    right, left = mx.minimum(to_upper, reach), mx.maximum(to_lower, -reach)
    half = 0.5 * (right - left)
    nodes, weights = mx.array(_NODES, mx.float32), mx.array(_NODE_WEIGHTS, mx.float32)
    offsets = (0.5 * (right + left))[..., None] + half[..., None] * nodes
    densities = _relative_density(peak[..., None], offsets)
    return peak, to_upper, to_lower, half * (densities * weights).sum(axis=-1)


def _relative_density(peak: mx.array, offset: mx.array) -> mx.array:
    return mx.exp(-offset * (peak + 0.5 * offset))


LOG_DIFFERENCES = {"logit": _logit, "probit": _probit, "cloglog": _cloglog}
