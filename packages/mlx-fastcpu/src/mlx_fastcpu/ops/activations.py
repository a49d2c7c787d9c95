"""Activations whose kernels a C++ compiler can vectorize completely.

The docstrings give the absolute errors of value and gradient against float64, for |x| <= 20. Half
precision is computed in float32 and rounded once. Infinite inputs give NaN, except in `sigmoid` and
`relu_squared`.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from mlx_fastcpu.ops.primitives import barrier, exp, fused, in_float32

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
    value_and_slope: Callable[[mx.array], tuple[mx.array, mx.array]],
) -> Callable[[mx.array], mx.array]:
    """Return a function that computes its value and its derivative in one kernel.

    `mx.custom_function` does not work: `mx.compile(shapeless=True)` cannot trace it. Instead a term
    that is 0 and has the derivative `slope` is added to the value; the backward pass is then one
    product.
    """

    @fused
    def function(x: mx.array) -> mx.array:
        fixed = mx.stop_gradient(x)
        value, slope = value_and_slope(fixed)
        return value + (x - fixed) * slope

    return in_float32(lambda x: barrier(function(barrier(x))))


@fused
def _tail(x: mx.array) -> mx.array:
    """Twice the normal tail beyond |x|.

    MLX fuses at most 11 operations in a row, and where it cuts, a constant may become an input that
    makes the next kernel scalar, four times slower. So this is a kernel of its own, and the
    polynomial is evaluated by Estrin's scheme, of depth 4 instead of 8.
    """
    a1, a2, a3, a4, a5 = _A
    t, bell = 1 / (1 + _P * mx.abs(x)), exp(-0.5 * x * x)
    squared = t * t
    return ((a2 * t + a1) + ((a4 * t + a3) + a5 * squared) * squared) * (t * bell)


@fused
def _gelu_kernel(x: mx.array, fixed: mx.array, tail: mx.array) -> mx.array:
    size, rest = mx.abs(fixed), 1 - tail
    density = (1 / math.sqrt(2 * math.pi)) * exp(-0.5 * fixed * fixed)
    slope = 0.5 + 0.5 * (fixed / (size + 1e-30)) * rest + fixed * density
    return 0.5 * (fixed + size * rest) + (x - fixed) * slope


@in_float32
@fused  # as a whole too: alone its kernels are cut elsewhere, 3 times slower without `mx.compile`
def _gelu(x: mx.array) -> mx.array:
    x = barrier(x)
    fixed = mx.stop_gradient(x)
    return barrier(_gelu_kernel(x, fixed, barrier(_tail(fixed))))


def _logistic(x: mx.array) -> mx.array:
    return 1 / (1 + exp(-x))


def _gelu_tanh_parts(x: mx.array) -> tuple[mx.array, mx.array]:
    # 1 + tanh(u) is twice the logistic function of 2 u.
    squared = x * x
    s = _logistic((2 * _SCALE) * (x + _CUBE * squared * x))
    return x * s, s + x * s * (1 - s) * (2 * _SCALE) * (1 + (3 * _CUBE) * squared)


def _silu_parts(x: mx.array) -> tuple[mx.array, mx.array]:
    s = _logistic(x)
    return x * s, s * (1 + x * (1 - s))


def _tanh_parts(x: mx.array) -> tuple[mx.array, mx.array]:
    s = _logistic(2 * x)
    return 2 * s - 1, 4 * s * (1 - s)


_gelu_tanh = _elementwise(_gelu_tanh_parts)
_silu = _elementwise(_silu_parts)
_tanh = _elementwise(_tanh_parts)
# Cheap enough for MLX's own derivative, and so correct for infinities.
_sigmoid_kernel = fused(_logistic)
# Not mx.maximum, whose handling of NaN prevents vectorization.
_relu_squared_kernel = fused(lambda x: mx.square(0.5 * (x + mx.abs(x))))
_sigmoid = in_float32(lambda x: barrier(_sigmoid_kernel(barrier(x))))
_relu_squared = in_float32(lambda x: barrier(_relu_squared_kernel(barrier(x))))
