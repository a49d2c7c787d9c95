"""Layers quantized by groups, in the form that mlx-lm writes: affine, with scales and biases.

`config.json` has `quantization: {group_size, bits, mode}`, with other settings of a layer, or
false, under its path.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
_FORM = ("group_size", "bits", "mode")


def read_quantization(values: Mapping[str, object]) -> Mapping[str, Any] | None:
    """Return the `quantization` of a `config.json`, None if it has none.

    Raises `ValueError` for other methods than mlx-lm's, and for other modes than affine.
    """
    found = values.get("quantization") or values.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise ValueError(f"quantization must be an object, got {found!r}")
    if "quant_method" in found and "quantization" not in values:
        raise ValueError(
            f"quantized by {found['quant_method']}, which is not supported; use the model before "
            "quantization, or convert it with mlx_lm.convert"
        )
    for path, form in [("", found), *((key, each) for key, each in found.items())]:
        if isinstance(form, Mapping):
            _check_form(path, form)
    if not all(isinstance(found.get(key), int) for key in ("group_size", "bits")):
        raise ValueError(f"quantization must have group_size and bits, got {dict(found)}")
    return found


def _check_form(path: str, form: Mapping[str, object]) -> None:
    where = f"quantization of {path}" if path else "quantization"
    mode = form.get("mode", "affine")
    if mode != "affine":
        raise ValueError(f"{where}: mode {mode!r} is not supported, only affine; mlx_lm loads it")
    if form.get("bits", 4) not in BITS or form.get("group_size", 64) not in GROUP_SIZES:
        raise ValueError(
            f"{where}: {form.get('bits')} bits in groups of {form.get('group_size')} are not "
            f"supported, only {BITS} bits in groups of {GROUP_SIZES}"
        )


def quantize_as_stored(
    model: nn.Module, quantization: Mapping[str, Any], tensors: Mapping[str, mx.array]
) -> None:
    """Replace the layers whose tensors have scales by quantized ones, in place."""
    common = {key: quantization[key] for key in ("group_size", "bits")}

    def form(path: str, layer: nn.Module) -> bool | dict[str, Any]:
        # mlx-lm's GPT-2 has another root.
        own = quantization.get(path, quantization.get(path.replace("transformer.", "model.", 1)))
        if f"{path}.scales" not in tensors or not hasattr(layer, "to_quantized"):
            return False
        return dict(own) if isinstance(own, Mapping) else True

    nn.quantize(model, **common, class_predicate=form)


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """Return the quantized layers by path."""
    return {path: each for path, each in model.named_modules() if "scales" in each}


def quantization_values(model: nn.Module) -> dict[str, object] | None:
    """Return `quantization` for `config.json`, None if no layer is quantized."""
    forms = {
        path: {key: getattr(layer, key) for key in _FORM}
        for path, layer in quantized_layers(model).items()
    }
    if not forms:
        return None
    common = Counter(tuple(each.values()) for each in forms.values()).most_common(1)[0][0]
    values: dict[str, object] = dict(zip(_FORM, common, strict=True))
    is_gpt2 = "transformer" in model
    for path, form in forms.items():
        if tuple(form.values()) != common:
            values[path.replace("transformer.", "model.", 1) if is_gpt2 else path] = form
    return values
