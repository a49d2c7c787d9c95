"""LayerNorm, RMSNorm and linear layers, with row sums and products by BLAS in float32."""

from collections.abc import Callable
from functools import cache
from typing import Any

import mlx.core as mx

from mlx_fastcpu.ops.primitives import barrier, custom, row_sum


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> mx.array:
    """Normalize mean and variance of the last axis of x (..., D), then weight (D,), bias (D,).

    Error 2e-6 of the largest value in the row, as of `rms_norm`.
    """
    normal = _normalizer(float(eps), True)(x.astype(mx.float32))
    return _scaled(normal, weight, bias).astype(_result_type(x, weight, bias))


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    """Normalize the mean square of the last axis of x (..., D), then multiply by weight (D,)."""
    normal = _normalizer(float(eps), False)(x.astype(mx.float32))
    return _scaled(normal, weight, None).astype(_result_type(x, weight))


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x (..., D) to (..., O) by weight (O, D) and bias (O,), in the wider of their dtypes.

    Half precision is computed in float32; MLX's bfloat16 product is 40 times slower.
    """
    dtype = _result_type(x, weight, bias)
    rows = x.astype(mx.float32).reshape(-1, x.shape[-1])
    weight = weight.astype(mx.float32)
    out = _plain(rows, weight) if bias is None else _biased(rows, weight, bias.astype(mx.float32))
    return out.reshape(*x.shape[:-1], weight.shape[0]).astype(dtype)


def quantized_linear(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    *,
    transpose: bool = True,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
) -> mx.array:
    """As `mx.quantized_matmul`: dequantize the weight to float32, multiply by BLAS.

    Dequantizes at every call; faster than MLX from about four rows of x on. The backward pass
    dequantizes again: otherwise training keeps the float32 weights of all layers at once. `weight`,
    `scales` and `biases` get no gradient.
    """
    packed = [weight, scales] if biases is None else [weight, scales, biases]
    options = {"group_size": group_size, "bits": bits, "mode": mode}
    multiply = _quantized(transpose, tuple(options.items()))
    rows = x.astype(mx.float32).reshape(-1, x.shape[-1])
    out = multiply(rows, *packed)
    return out.reshape(*x.shape[:-1], out.shape[-1]).astype(_result_type(x, scales))


@cache
def _quantized(transpose: bool, options: tuple[tuple[str, Any], ...]) -> Callable[..., mx.array]:
    def dense(packed: list[mx.array]) -> mx.array:
        weight, scales, biases = packed if len(packed) == 3 else (*packed, None)
        found = mx.dequantize(weight, scales, biases, **dict(options))
        return found.astype(mx.float32)

    @custom
    def multiply(x: mx.array, *packed: mx.array) -> mx.array:
        weight = dense(list(packed))
        return x @ (weight.T if transpose else weight)

    @multiply.vjp
    def _(inputs, gradient, _):
        _, *packed = inputs
        # Not before the gradient is known; and compilation would merge equal operations into one.
        weight = dense(mx.depends(packed, [gradient]))
        gradient = barrier(gradient) @ (weight if transpose else weight.T)
        return gradient, *(mx.zeros_like(each) for each in packed)

    return multiply


def _result_type(*arrays: mx.array | None) -> mx.Dtype:
    """Return the dtype of MLX's result: a wider weight widens it."""
    return mx.result_type(*(each for each in arrays if each is not None))


def _scaled(x: mx.array, weight: mx.array | None, bias: mx.array | None) -> mx.array:
    if weight is not None:
        x = barrier(x * weight.astype(mx.float32))
    return x if bias is None else barrier(x + bias.astype(mx.float32))


@cache
def _normalizer(eps: float, centred: bool) -> Callable[[mx.array], mx.array]:
    """Return the function from x to (x - mean) / sqrt(mean square + eps), per row.

    The mean is subtracted only when `centred`.
    """

    def scale(x: mx.array) -> mx.array:
        return barrier(mx.rsqrt(row_sum(x * x) * (1 / x.shape[-1]) + eps))

    @custom
    def normalize(x: mx.array) -> tuple[mx.array, mx.array]:
        x = barrier(x)
        if centred:
            x = barrier(x - barrier(row_sum(x) * (1 / x.shape[-1])))
        factor = scale(x)
        return barrier(x * factor), factor

    @normalize.vjp
    def _(x: mx.array, gradients: list[mx.array], outputs: list[mx.array]) -> mx.array:
        (gradient, _), (normal, factor) = gradients, outputs
        share = 1 / x.shape[-1]
        gradient = barrier(gradient)
        along = barrier(normal * barrier(row_sum(gradient * normal) * share))
        rest = barrier(gradient - along)
        if centred:
            rest = barrier(rest - barrier(row_sum(gradient) * share))
        return barrier(rest * factor)

    return lambda x: normalize(x)[0]


@custom
def _plain(x: mx.array, weight: mx.array) -> mx.array:
    return x @ weight.T


@_plain.vjp
def _(inputs, gradient, _):
    # In this form the rows of the weight's gradient are contiguous. MLX's is a transposed view, on
    # which an optimizer is several times slower.
    x, weight = inputs
    gradient = barrier(gradient)
    return gradient @ weight, gradient.T @ x


@custom
def _biased(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    return mx.addmm(bias, x, weight.T)


@_biased.vjp
def _(inputs, gradient, _):
    x, weight, _ = inputs
    gradient = barrier(gradient)
    return gradient @ weight, gradient.T @ x, gradient.sum(0)
