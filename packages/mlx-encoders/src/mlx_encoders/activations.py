"""Activation functions by their Hugging Face names, with an exact GELU that is fast on the CPU.

On the CPU `mx.erf` is a scalar loop that takes most of a BERT forward pass. There, GELU is built
from the error-function approximation 7.1.26 of Abramowitz and Stegun, *Handbook of Mathematical
Functions* (1964), |error| <= 1.5e-7 on erf. On a GPU `nn.gelu` is used as it is.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders._suggest import did_you_mean

# Abramowitz and Stegun 7.1.26: erfc(z) = exp(-z^2) * (a1 t + ... + a5 t^5), t = 1 / (1 + p z).
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def gelu(x: mx.array) -> mx.array:
    """Exact (erf) GELU, `x * Phi(x)`, elementwise.

    On the CPU the value is within 4e-7 and the gradient within 4e-7 of the float64 result, for
    finite inputs; float16 and bfloat16 inputs are computed in float32 and cast back.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return nn.gelu(x)
    value: mx.array = _cpu_gelu(x.astype(mx.float32))  # type: ignore[assignment]
    return value.astype(x.dtype)


def get_activation(name: str) -> Callable[[mx.array], mx.array]:
    """Return the activation of a Hugging Face config's name; an unknown one is a `ValueError`."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}{did_you_mean(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]


@mx.custom_function
def _cpu_gelu(x: mx.array) -> mx.array:
    return _gelu_value(x)


@_cpu_gelu.vjp
def _cpu_gelu_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    return cotangent * _gelu_slope(x)


@mx.compile
def _gelu_value(x: mx.array) -> mx.array:
    magnitude = mx.abs(x)
    # max(x, 0) = x / 2 + |x| / 2; a maximum would keep the compiled kernel from vectorizing.
    return 0.5 * x + 0.5 * magnitude - magnitude * _upper_tail(magnitude, _bell(x))


@mx.compile
def _gelu_slope(x: mx.array) -> mx.array:
    """Phi(x) + x * phi(x); exactly 1/2 at 0, where sign(x) is 0."""
    bell = _bell(x)
    phi_integral = 0.5 + mx.sign(x) * (0.5 - _upper_tail(mx.abs(x), bell))
    return phi_integral + x * bell * (1 / math.sqrt(2 * math.pi))


def _bell(x: mx.array) -> mx.array:
    """exp(-x^2 / 2), as a power: on the CPU 2.6 times faster than `mx.exp`, and as accurate."""
    return mx.power(math.e, -0.5 * x * x)


def _upper_tail(magnitude: mx.array, bell: mx.array) -> mx.array:
    """1 - Phi(|x|), from |x| and exp(-x^2 / 2)."""
    t = 1 / (1 + (_P / math.sqrt(2)) * magnitude)
    a1, a2, a3, a4, a5 = _A
    return 0.5 * bell * (((((a5 * t + a4) * t + a3) * t + a2) * t + a1) * t)


_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
}
