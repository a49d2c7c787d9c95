"""`mlx_fastcpu.ops` with MLX's signatures; they return `NotImplemented` for unsupported cases."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import NotImplementedType
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_fastcpu import ops
from mlx_fastcpu.ops.primitives import fused

Found: TypeAlias = mx.array | NotImplementedType

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Below this many elements MLX's single operation beats ours, of several steps: in generation of
# text, where arrays have a row or a few, by a factor of 2 to 5.
_FEW = 32768
# Queries up to which the same holds for attention, whose scores may not be many.
_FEW_QUERIES, _FEW_SCORES = 8, 8192
# Tokens up to which RoPE's angles are computed once for all layers.
_FEW_TOKENS = 256
# Rows up to which it holds for products: `ops.linear` adds four operations a layer.
_FEW_ROWS = 12
# Rows from which dequantizing a whole weight costs less than MLX's quantized product.
_LEAST_ROWS = 4


def rope(x: mx.array, dims: int, *, traditional: bool, **options: Any) -> Found:
    """As `mx.fast.rope`, without the traditional order of pairs."""
    if traditional or not _is_covered(x):
        return NotImplemented
    if x.size >= 4 * _FEW:
        return ops.rope(x, dims, **options)
    return _rope_of_few(x, dims, **options)


def _rope_of_few(
    x: mx.array,
    dims: int,
    *,
    base: float | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None = None,
) -> Found:
    """All layers turn queries and keys by the same angles: computed once a pass."""
    tokens = x.shape[-2]
    if tokens > _FEW_TOKENS or dims != x.shape[-1] or x.dtype != mx.float32:
        return NotImplemented
    if isinstance(offset, mx.array):
        return NotImplemented
    given = (dims, base, scale, offset, tokens)
    if getattr(_last, "given", None) != given or _last.freqs is not freqs:
        _last.given, _last.freqs = given, freqs
        _last.turns = _turns(*given, freqs)
    cosines, sines = _last.turns
    halves = mx.concatenate([x[..., dims // 2 :], x[..., : dims // 2]], axis=-1)
    return _turn(x, halves, cosines, sines)


_last = threading.local()


def _turns(
    dims: int, base: float | None, scale: float, offset: int, tokens: int, freqs: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Return cosines and sines (tokens, dims), sines of the first half negative."""
    periods = base ** (np.arange(0, dims, 2) / dims) if base else np.array(freqs, np.float64)
    angles = scale * np.arange(offset, offset + tokens)[:, None] / periods
    cosines, sines = np.cos(angles), np.sin(angles)
    pairs = np.hstack([cosines, cosines]), np.hstack([-sines, sines])
    return mx.array(pairs[0].astype(np.float32)), mx.array(pairs[1].astype(np.float32))


@fused
def _turn(x: mx.array, halves: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    return x * cosines + halves * sines


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: mx.array | str | None = None,
    sinks: mx.array | None = None,
    **options: Any,
) -> Found:
    """As `mx.fast.scaled_dot_product_attention`, without sinks."""
    if sinks is not None or not (_is_covered(q) and _is_covered(k) and _is_covered(v)):
        return NotImplemented
    if q.shape[-2] <= _FEW_QUERIES and q.size // q.shape[-1] * k.shape[-2] < _FEW_SCORES:
        return NotImplemented
    return ops.attention(q, k, v, scale, mask)


def cross_entropy(logits: mx.array, targets: mx.array) -> Found:
    """As `mx.fast.cross_entropy`."""
    return ops.cross_entropy(logits, targets) if _is_covered(logits) else NotImplemented


def softmax(x: mx.array, axis: Any = None, *, precise: bool = False) -> Found:
    """As `mx.softmax` over the last axis."""
    is_ours = x.size >= _FEW // 4 and _is_covered(x) and _is_last(axis, x)
    return ops.softmax(x) if is_ours else NotImplemented


def logsumexp(x: mx.array, axis: Any = None, keepdims: bool = False) -> Found:
    """As `mx.logsumexp` over the last axis."""
    is_ours = x.size >= _FEW and _is_covered(x) and _is_last(axis, x)
    return ops.logsumexp(x, keepdims) if is_ours else NotImplemented


def quantized_matmul(
    x: mx.array,
    w: mx.array,
    /,
    scales: mx.array,
    biases: mx.array | None = None,
    transpose: bool = True,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
) -> Found:
    """As `mx.quantized_matmul`, for `_LEAST_ROWS` rows or more."""
    if w.ndim > 2 or x.size // x.shape[-1] < _LEAST_ROWS or not _is_covered(x):
        return NotImplemented
    options = {"group_size": group_size, "bits": bits, "mode": mode}
    return ops.quantized_linear(x, w, scales, biases, transpose=transpose, **options)


def linear_call(layer: nn.Linear, x: mx.array) -> Found:
    """As `nn.Linear.__call__`."""
    return _linear(x, layer.weight, layer.get("bias")) if _is_covered(x) else NotImplemented


def _linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    rows = x.size // x.shape[-1]
    if rows > _FEW_ROWS or not x.dtype == weight.dtype == mx.float32:
        return ops.linear(x, weight, bias)
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


@dataclass(frozen=True)
class _Dequantized:
    """A quantized weight and its float32 form; a class, to keep it out of parameter trees."""

    weight: mx.array
    scales: mx.array
    weight32: mx.array

    def is_of(self, layer: nn.Module) -> bool:
        """Return whether it was dequantized from the layer's current arrays.

        False after a load, and within `mx.compile`, where the layer has placeholders.
        """
        return self.weight is layer["weight"] and self.scales is layer["scales"]


def quantized_linear_call(layer: nn.QuantizedLinear | nn.QuantizedEmbedding, x: mx.array) -> Found:
    """As `nn.QuantizedLinear.__call__`, with the float32 weight if one was kept."""
    kept = layer.__dict__.get("_dequantized")
    if kept is None or not kept.is_of(layer) or not _is_covered(x):
        return NotImplemented
    return _linear(x, kept.weight32, layer.get("bias"))


def dequantized_bytes(model: nn.Module) -> int:
    """Return the bytes that a model's quantized weights would need in float32."""
    return sum(4 * 32 // layer.bits * layer.weight.size for layer in _quantized(model))


def keep_dequantized(model: nn.Module) -> None:
    """Dequantize every quantized weight once, and store the result in its layer."""
    for layer in _quantized(model):
        options = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        weight32 = mx.dequantize(layer.weight, layer.scales, layer.get("biases"), **options)
        weight32 = weight32.astype(mx.float32)
        mx.eval(weight32)
        layer.__dict__["_dequantized"] = _Dequantized(layer["weight"], layer["scales"], weight32)


def drop_dequantized(model: nn.Module) -> None:
    """Undo `keep_dequantized`."""
    for layer in _quantized(model):
        layer.__dict__.pop("_dequantized", None)


def _quantized(model: nn.Module) -> list[Any]:
    kinds = (nn.QuantizedLinear, nn.QuantizedEmbedding)
    return [module for module in model.modules() if isinstance(module, kinds)]


def _is_covered(x: mx.array) -> bool:
    return x.dtype in _FLOATS and x.ndim > 0 and x.size > 0


def _is_last(axis: Any, x: mx.array) -> bool:
    return axis in (-1, x.ndim - 1) or (isinstance(axis, list | tuple) and list(axis) == [-1])


def _if_covered(function: Callable[..., mx.array], least: int = 0) -> Callable[..., Found]:
    """Return an adapter for arrays of `least` elements or more."""

    def adapter(x: mx.array, *arguments: Any, **options: Any) -> Found:
        is_ours = x.size >= least and _is_covered(x)
        return function(x, *arguments, **options) if is_ours else NotImplemented

    return adapter


def _log_softmax_activation(x: mx.array, axis: Any = -1) -> Found:
    found = logsumexp(x, axis, keepdims=True)
    return NotImplemented if found is NotImplemented else x - found


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> Found:
    """As `mx.fast.rms_norm`."""
    if not _is_covered(x):
        return NotImplemented
    if x.size >= _FEW:
        return ops.rms_norm(x, weight, eps)
    if weight is None or not x.dtype == weight.dtype == mx.float32:
        return NotImplemented
    return _scale_by_size(x, mx.square(x).mean(-1, keepdims=True) + eps, weight)


@fused
def _scale_by_size(x: mx.array, square: mx.array, weight: mx.array) -> mx.array:
    return x * mx.rsqrt(square) * weight


layer_norm = _if_covered(ops.layer_norm, _FEW)

ACTIVATIONS: dict[str, Callable[..., Found]] = {
    "gelu": _if_covered(ops.gelu, _FEW),
    "gelu_approx": _if_covered(ops.gelu_tanh, _FEW),
    "silu": _if_covered(ops.silu),
    "sigmoid": _if_covered(ops.sigmoid),
    "relu2": _if_covered(ops.relu_squared),
    # MLX compiles these with `shapeless=True`, which custom gradients do not support.
    "softmax": lambda x, axis=-1: softmax(x, axis),
    "log_softmax": _log_softmax_activation,
}
"""The functions of `mlx.nn`, by name."""

ACTIVATION_MODULES: dict[type[nn.Module], Callable[..., Found]] = {
    nn.SiLU: lambda layer, x: ACTIVATIONS["silu"](x),
    nn.Sigmoid: lambda layer, x: ACTIVATIONS["sigmoid"](x),
    nn.ReLU2: lambda layer, x: ACTIVATIONS["relu2"](x),
    nn.Softmax: lambda layer, x: ACTIVATIONS["softmax"](x),
    nn.LogSoftmax: lambda layer, x: ACTIVATIONS["log_softmax"](x),
}
