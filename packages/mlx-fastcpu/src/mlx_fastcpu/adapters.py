"""MLX's signatures over `mlx_fastcpu.ops`; `NotImplemented` for what these do not cover."""

from collections.abc import Callable
from dataclasses import dataclass
from types import NotImplementedType
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_fastcpu import ops

Found: TypeAlias = mx.array | NotImplementedType

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Rows from which unpacking a whole quantized weight costs less than MLX's product with it does.
_FEW_ROWS = 4


def layer_norm(x: mx.array, weight: Any, bias: Any, eps: float) -> Found:
    """As `mx.fast.layer_norm`."""
    return ops.layer_norm(x, weight, bias, eps) if _covered(x) else NotImplemented


def rms_norm(x: mx.array, weight: Any, eps: float) -> Found:
    """As `mx.fast.rms_norm`."""
    return ops.rms_norm(x, weight, eps) if _covered(x) else NotImplemented


def rope(x: mx.array, dims: int, *, traditional: bool, **options: Any) -> Found:
    """As `mx.fast.rope`, without the traditional order of pairs."""
    if traditional or not _covered(x):
        return NotImplemented
    return ops.rope(x, dims, **options)


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
    if sinks is not None or not (_covered(q) and _covered(k) and _covered(v)):
        return NotImplemented
    if q.shape[-2] == 1:  # one token of a generation: nothing to gain over few scores
        return NotImplemented
    return ops.attention(q, k, v, scale, mask)


def cross_entropy(logits: mx.array, targets: mx.array) -> Found:
    """As `mx.fast.cross_entropy`."""
    return ops.cross_entropy(logits, targets) if _covered(logits) else NotImplemented


def softmax(x: mx.array, axis: Any = None, *, precise: bool = False) -> Found:
    """As `mx.softmax` over the last axis."""
    return ops.softmax(x) if _covered(x) and _is_last(axis, x) else NotImplemented


def logsumexp(x: mx.array, axis: Any = None, keepdims: bool = False) -> Found:
    """As `mx.logsumexp` over the last axis."""
    return ops.logsumexp(x, keepdims) if _covered(x) and _is_last(axis, x) else NotImplemented


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
    """As `mx.quantized_matmul`, from a few rows on."""
    if w.ndim > 2 or _rows(x) < _FEW_ROWS or not _covered(x):
        return NotImplemented
    options = {"group_size": group_size, "bits": bits, "mode": mode}
    return ops.quantized_linear(x, w, scales, biases, transpose=transpose, **options)


def linear_call(layer: nn.Linear, x: mx.array) -> Found:
    """As `nn.Linear.__call__`."""
    return ops.linear(x, layer.weight, layer.get("bias")) if _covered(x) else NotImplemented


@dataclass(frozen=True)
class _Dequantized:
    """A quantized weight and its float32 form; not an array, so that no tree of arrays has it."""

    weight: mx.array
    scales: mx.array
    wide: mx.array

    def is_of(self, layer: nn.Module) -> bool:
        """Tell whether it was unpacked from what the layer holds now.

        Not so after a load, nor within `mx.compile`, where the layer holds placeholders.
        """
        return self.weight is layer["weight"] and self.scales is layer["scales"]


def quantized_linear_call(layer: nn.QuantizedLinear | nn.QuantizedEmbedding, x: mx.array) -> Found:
    """As `nn.QuantizedLinear.__call__`, with the float32 weight where it was kept."""
    kept = layer.__dict__.get("_dequantized")
    if kept is None or not kept.is_of(layer) or not _covered(x):
        return NotImplemented
    return ops.linear(x, kept.wide, layer.get("bias"))


def dequantized_bytes(model: nn.Module) -> int:
    """Bytes of all quantized weights of a model in float32."""
    return sum(4 * 32 // layer.bits * layer.weight.size for layer in _quantized(model))


def keep_dequantized(model: nn.Module) -> None:
    """Unpack every quantized weight once."""
    for layer in _quantized(model):
        options = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        wide = mx.dequantize(layer.weight, layer.scales, layer.get("biases"), **options)
        wide = wide.astype(mx.float32)
        mx.eval(wide)
        layer.__dict__["_dequantized"] = _Dequantized(layer["weight"], layer["scales"], wide)


def drop_dequantized(model: nn.Module) -> None:
    """Forget what `keep_dequantized` kept."""
    for layer in _quantized(model):
        layer.__dict__.pop("_dequantized", None)


def _quantized(model: nn.Module) -> list[Any]:
    kinds = (nn.QuantizedLinear, nn.QuantizedEmbedding)
    return [module for module in model.modules() if isinstance(module, kinds)]


def _covered(x: mx.array) -> bool:
    return x.dtype in _FLOATS and x.ndim > 0 and x.size > 0


def _is_last(axis: Any, x: mx.array) -> bool:
    return axis in (-1, x.ndim - 1) or (isinstance(axis, list | tuple) and list(axis) == [-1])


def _rows(x: mx.array) -> int:
    return x.size // x.shape[-1]


def _over_floats(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], Found]:
    return lambda x: function(x) if _covered(x) else NotImplemented


def _softmax_of(x: mx.array, axis: Any = -1) -> Found:
    return softmax(x, axis)


def _log_softmax_of(x: mx.array, axis: Any = -1) -> Found:
    found = logsumexp(x, axis, keepdims=True)
    return NotImplemented if found is NotImplemented else x - found


ACTIVATIONS: dict[str, Callable[..., Found]] = {
    "gelu": _over_floats(ops.gelu),
    "gelu_approx": _over_floats(ops.gelu_tanh),
    "silu": _over_floats(ops.silu),
    "sigmoid": _over_floats(ops.sigmoid),
    "relu2": _over_floats(ops.relu_squared),
    # In MLX these are compiled for any shape, which no custom gradient can be.
    "softmax": _softmax_of,
    "log_softmax": _log_softmax_of,
}
"""By their names in `mlx.nn`."""

ACTIVATION_MODULES: dict[type[nn.Module], Callable[..., Found]] = {
    nn.SiLU: lambda layer, x: ACTIVATIONS["silu"](x),
    nn.Sigmoid: lambda layer, x: ACTIVATIONS["sigmoid"](x),
    nn.ReLU2: lambda layer, x: ACTIVATIONS["relu2"](x),
    nn.Softmax: lambda layer, x: ACTIVATIONS["softmax"](x),
    nn.LogSoftmax: lambda layer, x: ACTIVATIONS["log_softmax"](x),
}
