"""Change the layers of a loaded model: quantize, dequantize, cast, fuse an adapter."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map, tree_unflatten

from mlx_gpt.models.adapters import (
    Base,
    add_saved_adapter,
    find_adapter,
    quantize_layers,
    read_base,
)
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.files import check_finite, find_model_folder, load_model
from mlx_gpt.models.layers import dense_rows
from mlx_gpt.models.quantization import quantized_layers
from mlx_lora import AdaptedLayer, MergeReport, disable_adapters, merge_and_unload

SAMPLE_TOKENS = 64  # random tokens on which changes of the logits are measured


def load_whole_model(path: str | Path) -> tuple[Decoder, Path]:
    """Return a model in the dtype of its file, and its folder; `ValueError` for an adapter."""
    if find_adapter(path):
        raise ValueError(f"{path} is an adapter; make it a whole model first, with mlx-gpt fuse")
    return load_model(path), find_model_folder(path)


def quantize(model: Decoder, bits: int, group_size: int) -> tuple[int, list[str]]:
    """Quantize linear layers and embeddings in place, as `mlx_lm.convert -q` does.

    Returns how many, and the paths of those that stay: their rows are no multiple of `group_size`.
    Raises `ValueError` for a nanochat model, a quantized one, and if no layer can be quantized.
    """
    if quantized_layers(model):
        raise ValueError("the model is quantized already; use convert dequantize first")
    quantize_layers(model, bits, group_size)
    plain = [path for path, each in model.named_modules() if hasattr(each, "to_quantized")]
    count = len(quantized_layers(model))
    if not count:
        raise ValueError(f"no layer has rows of a multiple of {group_size} numbers")
    return count, sorted(plain)


def dequantize(model: Decoder, dtype: mx.Dtype | None = None) -> int:
    """Replace quantized layers by plain ones, in place; return how many.

    All weights get `dtype`, rounded once from exact float32 values; None is that of the scales.
    """
    layers = quantized_layers(model)
    if dtype:
        cast(model, mx.float32)
    plain = []
    for path, layer in layers.items():
        weight = dense_rows(layer)
        rows, dims = weight.shape
        if isinstance(layer, nn.QuantizedEmbedding):
            new: Any = nn.Embedding(rows, dims)
        else:
            new = nn.Linear(dims, rows, bias="bias" in layer)
            if "bias" in layer:
                new.bias = layer.bias
        new.weight = weight
        plain.append((path, new))
    model.update_modules(tree_unflatten(plain))
    if dtype:
        cast(model, dtype)
    return len(layers)


def cast(model: Decoder, dtype: mx.Dtype) -> None:
    """Cast all floating parameters, in place; `ValueError` if one is beyond float16."""

    def convert(each: mx.array) -> mx.array:
        return each.astype(dtype) if mx.issubdtype(each.dtype, mx.floating) else each

    model.update(tree_map(convert, model.parameters()))
    if dtype == mx.float16:
        check_finite(model, "cast to float16")


@dataclass(frozen=True)
class LogitChange:
    """Root mean squares of differences of logits, over `SAMPLE_TOKENS` random tokens."""

    effect: float
    """With the adapter - without."""
    lost: float
    """Fused - with the adapter."""

    def __str__(self) -> str:
        share = self.lost / max(self.effect, 1e-30)
        return (
            f"logits: the adapter changes them by {self.effect:.3g} (rms of {SAMPLE_TOKENS} random "
            f"tokens), fusing lost {share:.2g} of that change"
        )


def fuse(
    adapter: str | Path,
    base: str | Path | None = None,
    dtype: mx.Dtype | None = None,
    requantize: bool = False,
) -> tuple[Decoder, Path, MergeReport, LogitChange]:
    """Return the model of an adapter with the adapter in its weights, and the model's folder.

    `base` is the model's folder, if not the one that the adapter names. The reports say how much
    of the adapter's effect the weights have. Layers of a quantized model that the adapter changes
    become plain layers in `dtype`, None is float32: rounding them to few bits again, which
    `requantize` does, loses most of the effect. Other models are fused in their dtype, or cast to
    `dtype`. Raises `ValueError` if the folder has no adapter, or the tensors do not fit.
    """
    folder = find_adapter(adapter)
    if folder is None:
        raise ValueError(f"{adapter} has no adapter (adapter_config.json)")
    named = Base(str(base)) if base else read_base(folder)
    model, source = load_whole_model(named.model)
    if named.bits:
        quantize_layers(model, named.bits, named.group_size)
    is_quantized = bool(quantized_layers(model))
    if dtype and not is_quantized:
        cast(model, dtype)
    add_saved_adapter(model, folder)
    model.eval()
    if is_quantized and not requantize:
        _cast_scales(model, dtype or mx.float32)
    ids = _sample(model)
    with disable_adapters(model):
        without = model(ids)
        mx.eval(without)
    adapted = model(ids)
    mx.eval(adapted)
    model, report = merge_and_unload(model, requantize=requantize)
    change = LogitChange(_rms(adapted - without), _rms(model(ids) - adapted))
    return model, source, report, change


def _cast_scales(model: Decoder, dtype: mx.Dtype) -> None:
    """Cast the scales of adapted layers: the merged weights get their dtype."""
    for layer in model.modules():
        if isinstance(layer, AdaptedLayer) and "scales" in layer.base_layer:
            base = layer.base_layer
            base.scales, base.biases = base.scales.astype(dtype), base.biases.astype(dtype)


def _sample(model: Decoder) -> mx.array:
    length = min(SAMPLE_TOKENS, model.config.sequence_len)
    return mx.random.randint(0, model.config.vocab_size, (1, length), key=mx.random.key(0))


def _rms(difference: mx.array) -> float:
    return math.sqrt(float(mx.square(difference).mean()))
