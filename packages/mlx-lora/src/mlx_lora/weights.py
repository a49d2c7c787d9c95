"""The weight of a layer, quantized or not, and layers with another weight."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

_FORM = ("group_size", "bits", "mode")


def form_of(base: Any) -> dict[str, Any] | None:
    """Return how a layer is quantized, None if it is not."""
    return {name: getattr(base, name) for name in _FORM} if hasattr(base, "bits") else None


def float_type(base: Any) -> mx.Dtype:
    """Return the type of a layer's weights, or of the scales of a quantized layer.

    The scales of other modes than "affine" are exponents, for which this is float32.
    """
    if form_of(base) is None:
        return base.weight.dtype
    return base.scales.dtype if base.mode == "affine" else mx.float32


def from_quantized(base: Any, arrays: Sequence[mx.array | None], form: Mapping[str, Any]) -> Any:
    """Return a quantized linear layer or embedding with these arrays, and the bias of `base`."""
    weight, scales, biases = (*arrays, None)[:3]
    assert weight is not None
    rows, columns = weight.shape[0], weight.shape[1] * 32 // form["bits"]
    if isinstance(base, nn.Embedding | nn.QuantizedEmbedding):
        new: Any = nn.QuantizedEmbedding(rows, columns, **form)
    else:
        new = nn.QuantizedLinear(columns, rows, bias="bias" in base, **form)
        if "bias" in base:
            new.bias = base.bias
    new.weight, new.scales, new.biases = weight, scales, biases
    new.freeze()
    return new


def with_weight(base: Any, weight: mx.array, bias: mx.array | None) -> Any:
    """Return a float layer with this weight and bias; in the type of `base`, if that is float."""
    dtype = float_type(base)
    if form_of(base) is None:
        new = copy.copy(base)
        new._no_grad = set(base._no_grad)
    else:
        rows, columns = weight.shape
        if isinstance(base, nn.QuantizedEmbedding):
            new = nn.Embedding(rows, columns)
        else:
            new = nn.Linear(columns, rows, bias=False)
    new.weight = weight.astype(dtype)
    if bias is not None:
        new.bias = bias.astype(dtype)
    return new
