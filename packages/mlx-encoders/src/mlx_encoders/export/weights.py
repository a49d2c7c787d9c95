"""The float32 weights of a model as NumPy arrays: quantized layers restored, an adapter merged."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_encoders.export.adapters import merge_adapter
from mlx_encoders.pretrained import PretrainedModel


def float_weights(
    model: PretrainedModel, adapter: str | Path | None = None
) -> dict[str, np.ndarray]:
    """Return the parameters by tensor name, float32, with a PEFT `adapter` merged into them."""
    weights = {
        name: array
        for name, array in tree_flatten(model.parameters())
        if isinstance(array, mx.array) and mx.issubdtype(array.dtype, mx.floating)
    }
    for path, module in model.named_modules():
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            for part in ("scales", "biases"):
                weights.pop(f"{path}.{part}", None)
            weights[f"{path}.weight"] = _dequantized(module)
    arrays = {name: np.array(array.astype(mx.float32)) for name, array in weights.items()}
    if adapter is not None:
        merge_adapter(arrays, adapter, model.base_prefix)
    return arrays


def with_weights(model: Any, weights: dict[str, np.ndarray]) -> Any:
    """Return a model of the same class and config with these float32 weights."""
    copy = type(model)(model.config)
    copy.load_weights([(name, mx.array(array)) for name, array in weights.items()])
    copy.eval()
    return copy


def _dequantized(module: Any) -> mx.array:
    return mx.dequantize(
        module["weight"],
        module["scales"],
        module.get("biases"),
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
    )
