"""Read and write adapters in the files of PEFT.

`adapter_config.json` has the configuration, `adapter_model.safetensors` the tensors under the names
of PEFT: `base_model.model.<path>.lora_A.weight`, and those of whole modules and biases under
`base_model.model.<path>`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_lora._atomic import write_atomic
from mlx_lora._suggest import did_you_mean
from mlx_lora.adapters import adapter_configs, check_known
from mlx_lora.config import AdapterConfig, LoraConfig, initialization
from mlx_lora.inject import add_adapter, unchanged_on_error
from mlx_lora.layers import AdaptedLayer, adapted_layers, plain_tensors
from mlx_lora.peft_config import CONFIG_FILE, config_to_dict, read_config, start_of
from mlx_lora.whole import copies_of, whole_modules, whole_values

TENSOR_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LISTED = 8


def save_adapter(model: nn.Module, folder: str | Path, name: str = "default") -> None:
    """Write one adapter, and all that is trained with it, to a folder that PEFT reads.

    Parameters that are trained outside of the adapter, such as a head that was unfrozen, are saved
    as whole modules too. An adapter that began with a part of the weights ("pissa", "olora") is
    written as a plain one of twice the rank, whose base are the unchanged weights. Files of a
    former adapter are replaced; the tensors are written first. Raises `ValueError` for names that
    are not in the model.
    """
    configs = adapter_configs(model)
    check_known(name, configs)
    folder = Path(folder)
    tensors, others = adapter_tensors(model, name, plain=True), _trained_outside(model)
    config = _with_saved(configs[name], model, name, others)
    stored = {_PREFIX + path: array for path, array in {**others, **tensors}.items()}
    metadata = {"format": "pt"}  # PEFT's reader needs one
    if isinstance(config, LoraConfig) and config.init_lora_weights == "loftq":
        metadata["base_sha256"] = base_hash(model, name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        folder / TENSOR_FILE,
        lambda path: mx.save_safetensors(str(path), stored, metadata=metadata),
    )
    text = json.dumps(config_to_dict(config), indent=2, sort_keys=True) + "\n"
    write_atomic(folder / CONFIG_FILE, lambda path: path.write_text(text, "utf-8"))


def load_adapter(
    model: nn.Module,
    folder: str | Path,
    name: str = "default",
    *,
    trainable: bool = False,
    rename: Callable[[str], str] | None = None,
) -> AdapterConfig:
    """Put the adapter of a folder into `model`, in place, and make it the active one.

    `rename` maps the paths of the file to those of the model. Raises `ValueError` if tensors are
    missing, unexpected or of another shape, for settings that this package does not have, and for a
    file that is not PEFT's; then the model has no new adapter.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors, metadata = _read_tensors(folder)
    if rename is not None:
        renamed = {rename(path): array for path, array in tensors.items()}
        if len(renamed) < len(tensors):
            raise ValueError(
                f"rename maps {len(tensors)} tensors of {folder} to {len(renamed)} names"
            )
        tensors = renamed
    plain = config
    if isinstance(config, LoraConfig):
        plain = replace(config, init_lora_weights=start_of(config, folder))
    with unchanged_on_error(model, name):
        try:
            add_adapter(model, plain, name, trainable=trainable, strict=False)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        place_tensors(model, name, tensors, folder)
        if "base_sha256" in metadata and metadata["base_sha256"] != base_hash(model, name):
            raise ValueError(
                f"{folder} was trained on weights that LoftQ made, and those of this model differ; "
                f"load the quantized model that was saved with it"
            )
    return config


def adapter_tensors(model: nn.Module, name: str, plain: bool = False) -> dict[str, mx.array]:
    """Return the tensors of an adapter by PEFT's names, without its prefix, in its layout.

    `plain` are those of `plain_tensors`.
    """
    found: dict[str, mx.array] = {}
    for path, layer in adapted_layers(model).items():
        if name in layer.known:
            adapter = layer.known[name]
            tensors = plain_tensors(adapter) if plain else adapter.tensors()
            found |= {f"{path}.{part}": array for part, array in tensors.items()}
    for path, module in whole_modules(model).items():
        values = whole_values(module, name)
        found |= {f"{path}.{part}": array for part, array in (values or {}).items()}
    return found


def base_hash(model: nn.Module, name: str) -> str:
    """Return a hash of the weights of the layers that an adapter is in."""
    found = hashlib.sha256()
    for path, layer in adapted_layers(model).items():
        if name in layer.known:
            found.update(path.encode())
            arrays: Any = tree_flatten(layer.base_layer.parameters())
            for key, array in sorted(arrays):
                found.update(key.encode())
                found.update(bytes(memoryview(array.view(mx.uint8))))
    return found.hexdigest()


def _read_tensors(folder: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    path = folder / TENSOR_FILE
    if not path.is_file():
        is_pickle = (folder / "adapter_model.bin").exists()
        hint = "; save the adapter_model.bin there as safetensors with PEFT" if is_pickle else ""
        raise FileNotFoundError(f"{folder} has no {TENSOR_FILE}{hint}")
    tensors, metadata = read_arrays(path)
    foreign = [key for key in tensors if not key.startswith(_PREFIX)]
    if foreign:
        raise ValueError(f"{path} has {foreign[0]!r}, which does not begin with {_PREFIX!r}")
    named = {key.removeprefix(_PREFIX): array for key, array in tensors.items()}
    # With biases and a whole module, PEFT stores its bias three times: as `classifier.bias`, as
    # `classifier.modules_to_save.bias`, and that of the base, which it does not use.
    copies = re.compile(r"\.(?:modules_to_save|original_module)(?=\.bias$)")
    kept = {
        key: array
        for key, array in named.items()
        if (plain := copies.sub("", key)) == key or plain not in named
    }
    return kept, metadata


def read_arrays(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Return the arrays and metadata of a safetensors file; `ValueError` if it is damaged."""
    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
    except RuntimeError as error:
        reason = str(error).partition("] ")[2] or str(error)
        raise ValueError(f"{path} cannot be read; copy it again: {reason}") from error
    return loaded


def place_tensors(model: nn.Module, name: str, tensors: dict[str, mx.array], folder: Path) -> None:
    """Replace the tensors of an adapter; `ValueError` names all that do not fit."""
    expected = adapter_tensors(model, name)
    for problem, names in (
        ("missing", [key for key in expected if key not in tensors]),
        ("unexpected", [key for key in tensors if key not in expected]),
        ("mis-shaped", [f"{key} {tensors[key].shape}, expected {expected[key].shape}"
                        for key in tensors if key in expected
                        and tensors[key].shape != expected[key].shape]),
    ):  # fmt: skip
        if names:
            listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
            near = did_you_mean(names[0], expected) if problem == "unexpected" else ""
            raise ValueError(f"{folder}: {len(names)} {problem} tensors: {listed}{near}")
    for path, layer in adapted_layers(model).items():
        if name in layer.known:
            _place_layer(layer, name, path, tensors)
    for path, module in whole_modules(model).items():
        if (values := whole_values(module, name)) is not None:
            placed = [(key, tensors[f"{path}.{key}"].astype(values[key].dtype)) for key in values]
            module.load_weights(placed, strict=False)


def _place_layer(layer: AdaptedLayer, name: str, path: str, tensors: dict[str, mx.array]) -> None:
    # As PEFT does: adapters are trained in float32, whatever the type of their file.
    parts = {
        key: tensors[f"{path}.{key}"].astype(mx.float32) for key in layer.known[name].tensors()
    }
    layer.known[name].place(parts)


def _trained_outside(model: nn.Module) -> dict[str, mx.array]:
    """Return the trained parameters that belong to no adapter."""
    arrays: Any = tree_flatten(model.trainable_parameters())
    inside = [f"{path}." for path in adapted_layers(model)]
    for path, module in whole_modules(model).items():
        copies = copies_of(module)
        assert copies is not None
        inside += [f"{path}."] if copies.keys is None else [f"{path}.{key}" for key in copies.keys]
    return {key: array for key, array in arrays if not key.startswith(tuple(inside))}


def _with_saved(
    config: AdapterConfig, model: nn.Module, name: str, others: Mapping[str, mx.array]
) -> AdapterConfig:
    """Return the configuration to write: what is saved whole, and plain LoRA of twice the rank."""
    extra = [path.rpartition(".")[0] for path in others]
    saved = list(dict.fromkeys([*(config.modules_to_save or ()), *extra]))
    for path, module in whole_modules(model).items():
        copies = copies_of(module)
        is_whole = copies is not None and name in copies.by_adapter and copies.keys is None
        if is_whole and not any(path == each or path.endswith(f".{each}") for each in saved):
            saved.append(path)
    config = replace(config, modules_to_save=saved or None)
    if config.target_modules == "all-linear":  # which PEFT may resolve to other modules
        paths = [path for path, each in adapted_layers(model).items() if name in each.known]
        config = replace(config, target_modules=paths, exclude_modules=None)
    if isinstance(config, LoraConfig) and initialization(config)[0] in ("pissa", "olora"):
        config = _as_plain(config, model, name)
    return config


def _as_plain(config: LoraConfig, model: nn.Module, name: str) -> LoraConfig:
    """Return the configuration of `plain_tensors`: other ranks at the same scales."""
    ranks, alphas = {}, {}
    for path, layer in adapted_layers(model).items():
        if name in layer.known:
            key, factor = re.escape(path), 2 if "_start" in layer.known[name] else 1
            ranks[key] = factor * config.rank_of(path)
            alphas[key] = config.scale_of(path) * ranks[key] ** (0.5 if config.use_rslora else 1)
    return replace(
        config,
        r=max(ranks.values()),
        lora_alpha=max(alphas.values()),
        rank_pattern=ranks if len(set(ranks.values())) > 1 else {},
        alpha_pattern=alphas if len(set(alphas.values())) > 1 else {},
        init_lora_weights=True,
    )
