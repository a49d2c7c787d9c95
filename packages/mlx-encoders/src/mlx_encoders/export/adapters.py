"""Merge a LoRA adapter saved by PEFT into the weights of a model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_encoders.files import read_json, read_tensors

_ADVICE = "merge it with peft's merge_and_unload and save_pretrained, and use that folder"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
# Settings under which W + scale * B A is not the adapted weight, and what they are off.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "megatron_config": (None,),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
}


def merge_adapter(weights: dict[str, np.ndarray], folder: str | Path, prefix: str) -> None:
    """Add `scale * B @ A` to the weights in place, and replace those that PEFT saved whole.

    The scale is `lora_alpha / r`, or `lora_alpha / sqrt(r)` of rank-stabilized LoRA, with the
    adapter's `rank_pattern` and `alpha_pattern`. `prefix` is that of the encoder's tensors.
    Raises `ValueError` for other kinds of adapters and for tensors that do not fit the model.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; it must be a folder saved by PEFT")
    config = read_json(folder / "adapter_config.json")
    _check_config(folder, config)
    factors: dict[str, dict[str, np.ndarray]] = {}
    for stored, array in read_tensors(folder / "adapter_model.safetensors").items():
        values = np.array(array.astype(mx.float32))
        if found := _FACTOR.fullmatch(stored):
            module, embedding, part = found.groups()
            if embedding:  # those of linear layers, transposed
                part, values = {"A": "B", "B": "A"}[part], values.T
            factors.setdefault(module, {})[part] = values
        else:
            whole = stored.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
            name = _find(weights, whole, prefix, folder)
            _check_shape(folder, stored, values.shape, name, weights[name].shape)
            weights[name] = values
    for stored, pair in factors.items():
        if len(pair) != 2:
            raise ValueError(f"{folder}: {stored} has lora_{next(iter(pair))} only, needs A and B")
        name = _find(weights, f"{stored}.weight", prefix, folder)
        delta = _scale(config, stored, pair["A"].shape[0]) * (pair["B"] @ pair["A"])
        _check_shape(folder, stored, delta.shape, name, weights[name].shape)
        weights[name] = weights[name] + delta


def _check_config(folder: Path, config: Mapping[str, object]) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{folder} has an adapter of peft_type {config.get('peft_type')!r}; only 'LORA' can be "
            f"merged: {_ADVICE}"
        )
    for key, allowed in _UNSUPPORTED.items():
        if key in config and config[key] not in allowed:
            raise ValueError(f"{folder} has {key}={config[key]!r}, which is not merged: {_ADVICE}")


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    module = module.removeprefix(_PREFIX)
    patterns = config.get("alpha_pattern") or {}
    matching = [key for key in patterns if re.match(rf"(.*\.)?({key})$", module)]  # as in PEFT
    alpha = patterns[matching[0]] if matching else config["lora_alpha"]
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _find(weights: Mapping[str, object], stored: str, prefix: str, folder: Path) -> str:
    """Return the tensor of the model; adapters of task models fit their encoder, and vice versa."""
    name = stored.removeprefix(_PREFIX)
    bare = name.removeprefix("bert.").removeprefix("model.")
    for candidate in (name, bare, f"{prefix}{bare}"):
        if candidate in weights:
            return candidate
    raise ValueError(
        f"{folder}: {stored} fits no tensor of the model; load the class that was adapted, with "
        "its task head"
    )


def _check_shape(folder: Path, stored: str, shape: tuple, name: str, expected: tuple) -> None:
    if shape != expected:
        raise ValueError(
            f"{folder}: {stored} is for a tensor {shape}, but {name} is {expected}; "
            "load the model that was adapted"
        )
