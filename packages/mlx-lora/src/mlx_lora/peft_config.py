"""`adapter_config.json` of PEFT: what is read, what is refused, what is written."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from mlx_lora.config import AdapterConfig, Ia3Config, LoraConfig, initialization

CONFIG_FILE = "adapter_config.json"
_KINDS: dict[str, type[AdapterConfig]] = {"LORA": LoraConfig, "IA3": Ia3Config}
# Values of other settings under which an adapter is what this package computes.
_NEUTRAL = (None, False, [], {}, "")
_IGNORED = {
    "auto_mapping", "inference_mode", "peft_type", "peft_version", "revision", "megatron_core",
    "qalora_group_size", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
}  # fmt: skip


def read_config(folder: str | Path) -> AdapterConfig:
    """Read the configuration of a folder; `ValueError` for settings that are not known here."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG_FILE}; name a folder saved by PEFT")
    try:
        values = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(values, dict) or "peft_type" not in values:
        hint = "; load_mlx_lm_adapter reads mlx-lm's" if "lora_parameters" in values else ""
        raise ValueError(f"{path} has no peft_type, so it is not of PEFT{hint}")
    try:
        return config_from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def config_from_dict(values: Mapping[str, Any]) -> AdapterConfig:
    """Return the configuration that the content of an `adapter_config.json` describes."""
    kind = values.get("peft_type")
    if kind not in _KINDS:
        raise ValueError(f"peft_type {kind!r} is not one of {', '.join(map(repr, _KINDS))}")
    known = {each.name: each for each in fields(_KINDS[kind])}
    refused = [
        f"{key}={value!r}" for key, value in values.items()
        if key not in known and key not in _IGNORED and value not in _NEUTRAL
    ]  # fmt: skip
    if refused:
        raise ValueError(f"settings that this package does not have: {', '.join(sorted(refused))}")
    if values.get("init_lora_weights") == "orthogonal":  # which leaves the base as it is
        values = {**values, "init_lora_weights": True}
    chosen = {}
    for key, each in known.items():
        if key not in values:
            continue
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        chosen[key] = default if values[key] is None else values[key]
    return _KINDS[kind](**chosen)


def config_to_dict(config: AdapterConfig) -> dict[str, Any]:
    """Return the content of an `adapter_config.json` for PEFT."""
    values = {
        key: list(value) if isinstance(value, list | tuple | set) else value
        for key, value in asdict(config).items()
    }
    kind = next(key for key, each in _KINDS.items() if isinstance(config, each))
    if isinstance(config, LoraConfig):
        if config.init_lora_weights in ("loftq", "eva"):
            values["init_lora_weights"] = True  # PEFT would begin anew
        values["loftq_config"] = {}
    elif values["feedforward_modules"] is None:
        values["feedforward_modules"] = []  # PEFT asks for a list
    return {"peft_type": kind, "inference_mode": True, **values}


def start_of(config: LoraConfig, folder: Path) -> bool | str:
    """Return the initialization to repeat: what PEFT subtracted from the weights of its base.

    It stores the adapter of "pissa" and "olora" as trained, and repeats their start when it loads.
    """
    method, iterations = initialization(config)
    if method == "loftq" or iterations is not None:
        raise ValueError(
            f"{folder} was trained on weights that init_lora_weights={config.init_lora_weights!r} "
            f"changed, which cannot be repeated; save it with PEFT's path_initial_model_for_weight_"
            f"conversion, as a plain adapter"
        )
    return method if method in ("pissa", "olora") else True
