"""Merge a LoRA adapter saved by PEFT into the weights of a model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_encoders.files import read_json, read_tensors

_ADVICE = "merge it with peft's merge_and_unload and save_pretrained, and use that folder"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
# Settings under which W + scale * B @ A is not the adapted weight, besides `use_...`, if not None.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "velora_config",
)
# Initializations that leave the base weights as they are; others, such as PiSSA, change them.
_INITIALIZATIONS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """The content of a folder; names are those of the adapted model, without PEFT's prefix."""

    folder: Path
    config: dict[str, Any]
    factors: dict[str, dict[str, np.ndarray]]
    """Of each adapted module: A (r, inputs) and B (outputs, r)."""
    whole: dict[str, np.ndarray]
    """Tensors that replace those of the model, such as a task head."""

    @classmethod
    def read(cls, folder: str | Path) -> "Adapter":
        """Read a folder saved by PEFT; `ValueError` for kinds of adapters that are not merged."""
        folder = Path(folder)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}; name a folder saved by PEFT")
        config = read_json(folder / "adapter_config.json")
        _check_config(folder, config)
        factors: dict[str, dict[str, np.ndarray]] = {}
        whole = {}
        for stored, array in read_tensors(folder / "adapter_model.safetensors").items():
            values = np.array(array.astype(mx.float32))
            if not (found := _FACTOR.fullmatch(stored.removeprefix(_PREFIX))):
                name = stored.removeprefix(_PREFIX).replace(".modules_to_save.", ".")
                whole[name.replace(".base_layer.", ".")] = values
                continue
            module, embedding, part = found.groups()
            if embedding:  # as those of linear layers, transposed
                part, values = {"A": "B", "B": "A"}[part], values.T
            factors.setdefault(module, {})[part] = values
        return cls(folder, config, factors, whole)

    def scale(self, module: str) -> float:
        """`lora_alpha / r`, or `lora_alpha / sqrt(r)` of rank-stabilized LoRA."""
        patterns = self.config.get("alpha_pattern") or {}
        matching = [key for key in patterns if re.match(rf"(.*\.)?({key})$", module)]  # as in PEFT
        alpha = patterns[matching[0]] if matching else self.config["lora_alpha"]
        rank = self.factors[module]["A"].shape[0]
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def merge_adapter(weights: dict[str, np.ndarray], folder: str | Path, prefix: str) -> None:
    """Add `scale * B @ A` to the weights in place, and replace those that PEFT saved whole.

    `prefix` is that of the encoder's tensors. Raises `ValueError` for other kinds of adapters and
    for tensors that do not fit the model.
    """
    adapter = Adapter.read(folder)
    for stored, values in adapter.whole.items():
        name = _find(weights, stored, prefix, adapter.folder)
        _check_shape(adapter.folder, stored, values.shape, name, weights[name].shape)
        weights[name] = values
    for module, pair in adapter.factors.items():
        if len(pair) != 2:
            raise ValueError(
                f"{adapter.folder}: {module} has one of its two LoRA tensors; copy it again"
            )
        name = _find(weights, f"{module}.weight", prefix, adapter.folder)
        delta = adapter.scale(module) * (pair["B"] @ pair["A"])
        _check_shape(adapter.folder, module, delta.shape, name, weights[name].shape)
        weights[name] = weights[name] + delta


def _check_config(folder: Path, config: Mapping[str, object]) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{folder} has an adapter of peft_type {config.get('peft_type')!r}, and only 'LORA' is "
            f"merged here: {_ADVICE}"
        )
    uses = {key for key in config if key.startswith("use_")} - {"use_rslora"}
    refused = [key for key in (*_UNSUPPORTED, *sorted(uses)) if config.get(key)]
    if config.get("init_lora_weights") not in _INITIALIZATIONS:
        refused.append("init_lora_weights")
    if refused:
        named = ", ".join(f"{key}={config[key]!r}" for key in refused)
        raise ValueError(f"{folder} has {named}, which is not merged here: {_ADVICE}")


def _find(weights: Mapping[str, object], stored: str, prefix: str, folder: Path) -> str:
    """Return the tensor of the model; adapters of task models fit their encoder, and vice versa."""
    bare = stored.removeprefix("bert.").removeprefix("model.")
    for candidate in (stored, bare, f"{prefix}{bare}"):
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
