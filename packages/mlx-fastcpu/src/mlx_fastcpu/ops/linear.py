"""Matrix products with the weight of a linear layer: always by BLAS, in float32."""

import mlx.core as mx

from mlx_fastcpu.ops._pieces import apart, custom


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x (..., D) to (..., O) by weight (O, D) and bias (O,), in the dtype of x.

    Half precision is computed in float32: MLX's own bfloat16 product is 40 times slower.
    """
    rows = x.astype(mx.float32).reshape(-1, x.shape[-1])
    wide = weight.astype(mx.float32)
    found = _plain(rows, wide) if bias is None else _biased(rows, wide, bias.astype(mx.float32))
    return found.reshape(*x.shape[:-1], weight.shape[0]).astype(x.dtype)


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
    """As `mx.quantized_matmul`: the weight is unpacked to float32 and multiplied by BLAS.

    That pays from about four rows on, and unpacks a weight again at every call.
    """
    options = {"group_size": group_size, "bits": bits, "mode": mode}
    wide = mx.dequantize(weight, scales, biases, **options).astype(mx.float32)
    return linear(x, wide if transpose else wide.T)


@custom
def _plain(x: mx.array, weight: mx.array) -> mx.array:
    return x @ weight.T


@_plain.vjp
def _(inputs, gradient, _):
    # As written, the gradient of the weight has contiguous rows; MLX's own is a transposed view,
    # over which an optimizer is several times slower.
    x, weight = inputs
    gradient = apart(gradient)
    return gradient @ weight, gradient.T @ x


@custom
def _biased(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    return mx.addmm(bias, x, weight.T)


@_biased.vjp
def _(inputs, gradient, _):
    x, weight, _ = inputs
    gradient = apart(gradient)
    return gradient @ weight, gradient.T @ x, gradient.sum(0)
