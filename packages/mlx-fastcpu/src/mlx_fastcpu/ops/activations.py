"""Activations whose kernels hold nothing but what a compiler can vectorize.

Each comes with the gradient of what it computes. Errors are absolute, against float64, of the value
and of the gradient, for |x| <= 20; half precision is computed in float32 and rounded once.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from mlx_fastcpu.ops._pieces import apart, custom, exp, fused, in_float32

# Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 7.1.26: erf to 1.5e-7.
_P = 0.3275911 / math.sqrt(2)
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
# Hendrycks and Gimpel (2016), section 2: tanh(sqrt(2 / pi) * (x + 0.044715 x^3)).
_SCALE, _CUBE = math.sqrt(2 / math.pi), 0.044715


def gelu(x: mx.array) -> mx.array:
    """x times the normal distribution function of x; errors 5e-7 and 5e-7."""
    return _gelu(x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU in its tanh form; errors 1e-6 and 1e-6."""
    return _gelu_tanh(x)


def silu(x: mx.array) -> mx.array:
    """x times its logistic function; errors 2e-6 and 1e-6."""
    return _silu(x)


def sigmoid(x: mx.array) -> mx.array:
    """The logistic function; errors 3e-7 and 1e-7."""
    return _sigmoid(x)


def relu_squared(x: mx.array) -> mx.array:
    """max(x, 0) squared, exact."""
    return _relu_squared(x)


def softcap(x: mx.array, cap: float) -> mx.array:
    """cap * tanh(x / cap); errors 3e-7 * cap and 5e-7."""
    return cap * _tanh(x * (1 / cap))


def _elementwise(
    value: Callable[[mx.array], mx.array], slope: Callable[[mx.array, mx.array], mx.array]
) -> Callable[[mx.array], mx.array]:
    """A function with the gradient `slope(x, gradient of its output)`, in kernels of its own."""
    value, slope = fused(value), fused(slope)

    @custom
    def function(x: mx.array) -> mx.array:
        return apart(value(apart(x)))

    @function.vjp
    def _(x: mx.array, gradient: mx.array, _: mx.array) -> mx.array:
        return apart(slope(apart(x), apart(gradient)))

    return in_float32(function)


def _tail(x: mx.array) -> mx.array:
    """Twice the normal tail beyond |x|."""
    t = 1 / (1 + _P * mx.abs(x))
    a1, a2, a3, a4, a5 = _A
    return ((((a5 * t + a4) * t + a3) * t + a2) * t + a1) * t * exp(-0.5 * x * x)


def _gelu_value(x: mx.array) -> mx.array:
    size = mx.abs(x)
    return 0.5 * (x + size - size * _tail(x))


def _gelu_slope(x: mx.array, gradient: mx.array) -> mx.array:
    sign = x / (mx.abs(x) + 1e-30)
    density = (1 / math.sqrt(2 * math.pi)) * exp(-0.5 * x * x)
    return gradient * (0.5 + 0.5 * sign * (1 - _tail(x)) + x * density)


def _logistic(x: mx.array) -> mx.array:
    return 1 / (1 + exp(-x))


def _gelu_tanh_value(x: mx.array) -> mx.array:
    # 1 + tanh(u) is twice the logistic function of 2 u.
    return x * _logistic((2 * _SCALE) * (x + _CUBE * x * x * x))


def _gelu_tanh_slope(x: mx.array, gradient: mx.array) -> mx.array:
    squared = x * x
    s = _logistic((2 * _SCALE) * (x + _CUBE * squared * x))
    return gradient * (s + x * s * (1 - s) * (2 * _SCALE) * (1 + (3 * _CUBE) * squared))


def _silu_slope(x: mx.array, gradient: mx.array) -> mx.array:
    s = _logistic(x)
    return gradient * s * (1 + x * (1 - s))


def _sigmoid_slope(x: mx.array, gradient: mx.array) -> mx.array:
    s = _logistic(x)
    return gradient * s * (1 - s)


def _tanh_value(x: mx.array) -> mx.array:
    return 2 * _logistic(2 * x) - 1


def _tanh_slope(x: mx.array, gradient: mx.array) -> mx.array:
    s = _logistic(2 * x)
    return gradient * 4 * s * (1 - s)


def _positive(x: mx.array) -> mx.array:
    # Not mx.maximum: its handling of NaN keeps a compiler from vectorizing the kernel.
    return 0.5 * (x + mx.abs(x))


_gelu = _elementwise(_gelu_value, _gelu_slope)
_gelu_tanh = _elementwise(_gelu_tanh_value, _gelu_tanh_slope)
_silu = _elementwise(lambda x: x * _logistic(x), _silu_slope)
_sigmoid = _elementwise(_logistic, _sigmoid_slope)
_tanh = _elementwise(_tanh_value, _tanh_slope)
_relu_squared = _elementwise(
    lambda x: mx.square(_positive(x)), lambda x, gradient: gradient * 2 * _positive(x)
)
