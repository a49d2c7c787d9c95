"""Quantize the matrices of a model, in the form that mlx-lm and mlx-embeddings read.

A quantized layer stores integers of a few bits and one scale a group of weights; it has no
gradient. Biases and norms keep their type.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_encoders._suggest import did_you_mean

_LOGGER = logging.getLogger(__name__)

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
# Group size and bits that MLX takes for each mode; affine has others too.
_DEFAULTS = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
# The last layers of task models: small, and their errors go straight into the logits.
LAST_LAYERS = (r"(^|\.)(classifier|qa_outputs|seq_relationship)$",)
_QUANTIZED = (nn.QuantizedLinear, nn.QuantizedEmbedding)

M = TypeVar("M", bound=nn.Module)


def quantize(
    model: M,
    bits: int | None = None,
    group_size: int | None = None,
    mode: Mode = "affine",
    skip: Sequence[str] = LAST_LAYERS,
    per_layer: Mapping[str, Mapping[str, Any] | bool] | None = None,
) -> M:
    """Quantize the linear layers and embeddings of `model` in place, and return it.

    None are the defaults of the mode: 4 bits in groups of 64 for "affine", which also has 2, 3, 5,
    6 and 8 bits and groups of 32 and 128. The other modes have one form each, and their embeddings
    come out as bfloat16, which rounds those of a float32 model once more. Layers whose path
    matches a regular expression of `skip` (anywhere in the path) stay as they are; r"embeddings"
    skips the embeddings of BERT and ModernBERT. `per_layer` maps expressions to other
    "bits", "group_size" or "mode", to False, or to True for a layer of `skip`; the first match
    counts.

    Layers whose rows are not whole groups are left, with a warning that names them. Raises
    `ValueError` for settings that the installed MLX does not have, expressions in `per_layer` that
    match no layer, and a model without a layer to quantize.
    """
    if isinstance(skip, str):
        raise TypeError(f"skip must be a sequence of expressions, got the string {skip!r}")
    per_layer = per_layer or {}
    base = _settings({"mode": mode, "group_size": group_size, "bits": bits})
    layers = dict(_layers(model))
    if any(isinstance(layer, _QUANTIZED) for layer in layers.values()):
        raise ValueError("the model is quantized already; dequantize it first")
    for pattern in per_layer:
        if not any(re.search(pattern, path) for path in layers):
            raise ValueError(f"per_layer has {pattern!r}, which matches no layer of the model")
    chosen: dict[str, dict[str, Any]] = {}
    left = []
    for path, layer in layers.items():
        settings = _choose(path, base, skip, per_layer)
        if settings is None:
            continue
        if layer.weight.shape[-1] % settings["group_size"]:
            left.append(f"{path} {layer.weight.shape}")
        else:
            chosen[path] = settings
    if left:
        _LOGGER.warning(
            "%d layers are not quantized, as their rows are no multiple of the group size: %s",
            len(left),
            ", ".join(left),
        )
    if not chosen:
        raise ValueError("no layer was quantized: all are skipped, or smaller than a group")
    nn.quantize(model, class_predicate=lambda path, _: chosen.get(path, False))
    return model


def dequantize(model: M, dtype: mx.Dtype = mx.float32) -> M:
    """Replace quantized layers in place by float ones with the same outputs; return the model.

    Raises `ValueError` if none is quantized.
    """
    found = [(path, layer) for path, layer in _layers(model) if isinstance(layer, _QUANTIZED)]
    if not found:
        raise ValueError("the model has no quantized layer")
    model.update_modules(
        tree_unflatten([(path, _dequantized(layer, dtype)) for path, layer in found])
    )
    return model


def quantization_config(model: nn.Module) -> dict[str, Any] | None:
    """Return the `quantization` of a `config.json` in mlx-lm's form; None if nothing is quantized.

    The settings of most layers, and by path those of other layers, False where not quantized.
    """
    found = {
        path: {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        if isinstance(layer, _QUANTIZED)
        else False
        for path, layer in _layers(model)
    }
    counts = Counter(tuple(each.items()) for each in found.values() if isinstance(each, dict))
    if not counts:
        return None
    common = dict(counts.most_common(1)[0][0])
    return common | {path: each for path, each in found.items() if each != common}


def check_method(config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a `config.json` names a method of quantization other than MLX's."""
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method is not None and "quantization" not in config:
        raise ValueError(
            f"config has quantization_config with quant_method={method!r}, which this package does "
            f"not read; load the float model and quantize it here"
        )


def quantize_like(model: nn.Module, tensors: Mapping[str, mx.array]) -> None:
    """Quantize the layers of `model` whose `tensors` are, with the settings of these shapes.

    The values come from loading the tensors afterwards. Layers of another shape are left for the
    loader to report. Raises `ValueError` for a form that this package does not know.
    """
    chosen = {}
    for path, layer in _layers(model):
        scales = tensors.get(f"{path}.scales")
        if scales is None or f"{path}.weight" not in tensors:
            continue
        rows, columns = layer.weight.shape
        packed = tensors[f"{path}.weight"]
        bits, rest = divmod(32 * packed.shape[-1], columns)
        group_size, uneven = divmod(columns, scales.shape[-1])
        if packed.shape[0] != rows or rest or uneven:
            continue
        chosen[path] = {
            "group_size": group_size,
            "bits": bits,
            "mode": _mode(path, group_size, bits, f"{path}.biases" in tensors),
        }
        _settings(chosen[path])
    if chosen:
        nn.quantize(model, class_predicate=lambda path, _: chosen.get(path, False))


def logical_size(layer: Any) -> int:
    """Return the number of weights that a quantized layer's integers stand for."""
    return layer.weight.size * 32 // layer.bits


def is_quantized(layer: nn.Module) -> bool:
    """Whether this layer is one of MLX's quantized ones."""
    return isinstance(layer, _QUANTIZED)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the linear layers and embeddings by path, quantized or not."""
    for path, module in model.named_modules():
        if hasattr(module, "to_quantized") or isinstance(module, _QUANTIZED):
            yield path, module


def _choose(
    path: str,
    base: dict[str, Any],
    skip: Sequence[str],
    per_layer: Mapping[str, Mapping[str, Any] | bool],
) -> dict[str, Any] | None:
    """Return the settings of a layer, or None if it is not to be quantized."""
    for pattern, changes in per_layer.items():
        if re.search(pattern, path):
            if isinstance(changes, bool):
                return base if changes else None
            kept = {} if changes.get("mode", base["mode"]) != base["mode"] else base
            return _settings({**kept, **changes})
    return None if any(re.search(pattern, path) for pattern in skip) else base


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of the mode, and check that MLX has the combination."""
    names = ("group_size", "bits", "mode")
    for name in values:
        if name not in names:
            raise ValueError(f"unknown quantization setting {name!r}{did_you_mean(name, names)}")
    mode = values["mode"]
    if mode not in _DEFAULTS:
        raise ValueError(f"unknown quantization mode {mode!r}{did_you_mean(str(mode), _DEFAULTS)}")
    group_size = values.get("group_size") or _DEFAULTS[mode][0]
    bits = values.get("bits") or _DEFAULTS[mode][1]
    try:
        mx.quantize(mx.zeros((1, 128)), group_size=group_size, bits=bits, mode=mode)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"MLX {version('mlx')} cannot quantize with mode={mode!r}, bits={bits}, "
            f"group_size={group_size}: {' '.join(str(error).split())}"
        ) from error
    return {"group_size": group_size, "bits": bits, "mode": mode}


def _mode(path: str, group_size: int, bits: int, has_biases: bool) -> str:
    if has_biases:
        return "affine"
    for mode, form in _DEFAULTS.items():
        if mode != "affine" and form == (group_size, bits):
            return mode
    raise ValueError(
        f"{path} is quantized in a form that this package does not know: {bits} bits in groups of "
        f"{group_size} without biases"
    )


def _dequantized(layer: Any, dtype: mx.Dtype) -> nn.Module:
    weight = mx.dequantize(
        layer.weight,
        scales=layer.scales,
        biases=layer.get("biases"),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    ).astype(dtype)
    rows, columns = weight.shape
    if isinstance(layer, nn.QuantizedEmbedding):
        new = nn.Embedding(rows, columns)
    else:
        new = nn.Linear(columns, rows, bias="bias" in layer)
        if "bias" in layer:
            new.bias = layer.bias
    new.weight = weight
    return new
