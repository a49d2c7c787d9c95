"""Read and write adapters in the files of mlx-lm: `adapter_config.json`, `adapters.safetensors`.

mlx-lm has one rank and scale, and adapts the same modules in each of the last layers. Its A and B
are the transposes of PEFT's.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_lora._atomic import write_atomic
from mlx_lora.adapters import adapter_configs, check_known
from mlx_lora.config import LoraConfig
from mlx_lora.embedding import EmbeddingLora
from mlx_lora.inject import add_adapter, unchanged_on_error
from mlx_lora.layers import adapted_layers, plain_tensors
from mlx_lora.linear import LinearLora
from mlx_lora.peft_files import place_tensors, read_arrays
from mlx_lora.targets import EMBEDDINGS, named_layers
from mlx_lora.whole import whole_modules, whole_values

_LAYER = re.compile(r"((?:.*\.)?(?:layers|h))\.(\d+)\.(.+)")  # of GPT-2 and nanochat: h


def save_mlx_lm_adapter(
    model: nn.Module,
    folder: str | Path,
    name: str = "default",
    *,
    rename: Callable[[str], str] = str,
) -> None:
    """Write an adapter for mlx-lm's `load_adapters`; `rename` maps paths to those of its model.

    Raises `ValueError` for what that has no place for: several ranks or scales, modules that are
    trained whole, biases, DoRA of embeddings (mlx-lm's is another method), other layers than those
    of a last part of `layers`.
    """
    configs = adapter_configs(model)
    check_known(name, configs)
    config = configs[name]
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{name!r} is {config.kind}, and mlx-lm has LoRA and DoRA")
    layers = {
        p: each.known[name] for p, each in adapted_layers(model).items() if name in each.known
    }
    tensors: dict[str, mx.array] = {}
    forms = set()
    for path, adapter in layers.items():
        found = _to_mlx_lm(path, adapter)
        forms.add((found["lora_a"].shape[1], float(adapter._scale)))
        tensors |= {f"{rename(path)}.{part}": array for part, array in found.items()}
    if len(forms) > 1:
        raise ValueError(f"mlx-lm has one rank and scale, but {name!r} has {sorted(forms)}")
    whole = [path for path, module in whole_modules(model).items() if whole_values(module, name)]
    if whole:
        raise ValueError(f"mlx-lm's files have no place for {whole[0]}, which is trained whole")
    (rank, scale), (count, keys, others) = forms.pop(), _last_layers(model, list(layers))
    keys += map(rename, others)
    parameters = {"rank": rank, "scale": scale, "dropout": config.lora_dropout, "keys": keys}
    values = {
        "fine_tune_type": "dora" if config.use_dora else "lora",
        "num_layers": count,
        "lora_parameters": parameters,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        folder / "adapters.safetensors", lambda path: mx.save_safetensors(str(path), tensors)
    )
    text = json.dumps(values, indent=4) + "\n"
    write_atomic(folder / "adapter_config.json", lambda path: path.write_text(text, "utf-8"))


def load_mlx_lm_adapter(
    model: nn.Module,
    folder: str | Path,
    name: str = "default",
    *,
    trainable: bool = False,
    rename: Callable[[str], str] = str,
) -> LoraConfig:
    """Put an adapter that mlx-lm saved into `model`, in place, and make it the active one.

    `rename` maps paths of mlx-lm's model to those of this one. What is adapted follows from the
    tensors. Raises `ValueError` for those that fit no module, and
    for a full fine-tune.
    """
    folder = Path(folder)
    values = _read_config(folder)
    kind = values.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ValueError(f"{folder} has fine_tune_type {kind!r}, which is no adapter")
    loaded, _ = read_arrays(folder / "adapters.safetensors")
    modules = dict(named_layers(model))
    tensors: dict[str, mx.array] = {}
    for key, array in loaded.items():
        path, _, part = key.rpartition(".")
        path = rename(path)
        if path not in modules or part not in ("lora_a", "lora_b", "m"):
            raise ValueError(f"{folder}: {key} fits no module of the model")
        is_embedding = isinstance(modules[path], EMBEDDINGS)
        if is_embedding and kind == "dora":
            raise ValueError(
                f"{folder}: {path} is an embedding with mlx-lm's DoRA, which has a magnitude for "
                f"each token; PEFT and this package have one for each column"
            )
        renamed, change = _from_mlx_lm(part, array, is_embedding)
        tensors[f"{path}.{renamed}"] = change
    parameters = values["lora_parameters"]
    rank = parameters["rank"]
    config = LoraConfig(
        r=rank,
        lora_alpha=parameters["scale"] * rank,
        lora_dropout=parameters.get("dropout", 0.0),
        target_modules=sorted({rename(key.rpartition(".")[0]) for key in loaded}),
        use_dora=kind == "dora",
    )
    with unchanged_on_error(model, name):
        add_adapter(model, config, name, trainable=trainable)
        place_tensors(model, name, tensors, folder)
    return config


def _to_mlx_lm(path: str, adapter: Any) -> dict[str, mx.array]:
    if isinstance(adapter, EmbeddingLora) and not adapter.config.use_dora:
        a, b = adapter.lora_embedding_A, adapter.lora_embedding_B
        return {"lora_a": a.T, "lora_b": b.T}
    if not isinstance(adapter, LinearLora) or "bias" in adapter.lora_B:
        what = (
            "lora_bias" if isinstance(adapter, LinearLora) else f"{adapter.config.kind} of its type"
        )
        raise ValueError(f"{path} has {what}, which mlx-lm's files have no place for")
    found = plain_tensors(adapter)
    arrays = {"lora_a": found["lora_A.weight"].T, "lora_b": found["lora_B.weight"].T}
    if "lora_magnitude_vector" in found:
        arrays["m"] = found["lora_magnitude_vector"]
    return arrays


def _from_mlx_lm(part: str, array: mx.array, is_embedding: bool) -> tuple[str, mx.array]:
    if part == "m":
        return "lora_magnitude_vector", array
    letter = part[-1].upper()
    name = f"lora_embedding_{letter}" if is_embedding else f"lora_{letter}.weight"
    return name, mx.contiguous(array.T)


def _last_layers(model: nn.Module, paths: list[str]) -> tuple[int, list[str], list[str]]:
    """Return mlx-lm's `num_layers`, the `keys` in each of them, and the paths of other modules."""
    found: dict[int, set[str]] = {}
    others, lists = [], set()
    for path in paths:
        if match := _LAYER.fullmatch(path):
            lists.add(match[1])
            found.setdefault(int(match[2]), set()).add(match[3])
        else:
            others.append(path)
    if len(lists) > 1:
        raise ValueError(
            f"mlx-lm adapts one list of layers, but these are adapted: {sorted(lists)}"
        )
    if not found:
        raise ValueError("mlx-lm adapts the layers of a model, and none is adapted here")
    (prefix,) = lists
    every = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", path) for path, _ in named_layers(model))
    total = 1 + max(int(match[1]) for match in every if match)
    keys = set.union(*found.values())
    uneven = [index for index in found if found[index] != keys]
    if uneven or sorted(found) != list(range(total - len(found), total)):
        raise ValueError(
            f"mlx-lm adapts the same modules of the last layers, but here layers {sorted(found)} "
            f"of {total} are adapted" + (f", and layer {uneven[0]} differs" if uneven else "")
        )
    return len(found), sorted(keys), others


def _read_config(folder: Path) -> Mapping[str, Any]:
    for name in ("adapter_config.json", "adapters.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; name a folder saved by mlx-lm")
    values = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    if "lora_parameters" not in values:
        hint = "; load_adapter reads PEFT's" if "peft_type" in values else ""
        raise ValueError(f"{folder / 'adapter_config.json'} has no lora_parameters{hint}")
    return values
