"""Folders with an adapter instead of a whole model: they name the model that it belongs to.

adapter_config.json, adapter_model.safetensors    PEFT's files
adapter_config.json, adapters.safetensors         mlx-lm's, instead
base.json                                         the model, and how it was quantized for training
"""

import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import mlx.nn as nn

from mlx_gpt.models.gpt2 import GPT2
from mlx_gpt.models.nanochat import Nanochat
from mlx_gpt.models.nanochat_2025 import Nanochat2025
from mlx_gpt.models.quantization import BITS, GROUP_SIZES
from mlx_gpt.models.shards import read_json
from mlx_lora import load_adapter, load_mlx_lm_adapter, save_adapter, save_mlx_lm_adapter
from mlx_trainer import write_atomic

logger = logging.getLogger(__name__)

AdapterFormat = Literal["peft", "mlx-lm"]

_CONFIG, _BASE = "adapter_config.json", "base.json"
_TENSORS = {"peft": "adapter_model.safetensors", "mlx-lm": "adapters.safetensors"}
_GPT2_PREFIX = "transformer."  # mlx-lm has "model." instead
ADAPTER_FILES = (_CONFIG, _BASE, *_TENSORS.values())


@dataclass(frozen=True)
class Base:
    """The model of an adapter; `bits` is 0 if it was not quantized for the training."""

    model: str
    bits: int = 0
    group_size: int = 64


def find_adapter(path: str | Path) -> Path | None:
    """Return the folder of the adapter in a folder or a run folder, None for a whole model."""
    for folder in (Path(path), Path(path) / "model"):
        if (folder / _CONFIG).is_file() and not (folder / "config.json").is_file():
            return folder
    return None


def read_base(folder: Path) -> Base:
    """Return the model of an adapter.

    Raises `FileNotFoundError` if it is not a folder of this machine, `ValueError` if no file names
    it.
    """
    own = folder / _BASE
    values = read_json(own) if own.is_file() else read_json(folder / _CONFIG)
    name = values.get("model") or values.get("base_model_name_or_path")
    if not isinstance(name, str):
        raise ValueError(f"{folder / _CONFIG} does not name the model of the adapter")
    bits, group_size = values.get("bits", 0), values.get("group_size", 64)
    if bits not in (0, *BITS) or group_size not in GROUP_SIZES:
        raise ValueError(f"{own}: {bits!r} bits in groups of {group_size!r} are not supported")
    for path in (Path(name), folder / name):
        if path.is_dir():
            return Base(str(path), bits, group_size)  # type: ignore[arg-type]
    raise FileNotFoundError(
        f"{name}: no such folder; the adapter in {folder} belongs to this model: correct the path "
        f"in {own if own.is_file() else folder / _CONFIG}"
    )


def quantize_layers(model: nn.Module, bits: int, group_size: int = 64) -> None:
    """Quantize the linear layers and embeddings of a model, in place, as mlx-lm does.

    Layers whose rows are no multiple of `group_size` stay as they are. Raises `ValueError` for
    nanochat's models.
    """
    if isinstance(model, Nanochat | Nanochat2025):
        raise ValueError("nanochat's models are not quantized: their layers cast float32 weights")

    def fits(path: str, layer: Any) -> bool:
        return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % group_size == 0

    nn.quantize(model, group_size, bits, class_predicate=fits)


def add_saved_adapter(
    model: nn.Module, folder: Path, trainable: bool = False, name: str = "default"
) -> None:
    """Put the adapter of a folder into its model, in place."""
    if (folder / _TENSORS["mlx-lm"]).is_file():
        rename = partial(_rename, model, "model.", _GPT2_PREFIX)
        load_mlx_lm_adapter(model, folder, name, trainable=trainable, rename=rename)
    else:
        load_adapter(model, folder, name, trainable=trainable)


def apply_adapter(
    model: nn.Module, folder: str | Path, source: str | Path | None, name: str = "default"
) -> None:
    """Put the adapter of a folder onto the model loaded from `source`, and make it the active one.

    Logs a warning if the adapter names another model: it may fit and mean nothing there; a `source`
    of None is not compared. Raises `FileNotFoundError` if the folder has no adapter, `ValueError`
    if its tensors do not fit.
    """
    found = find_adapter(folder)
    if not found or not any((found / name).is_file() for name in _TENSORS.values()):
        raise FileNotFoundError(f"{folder} has no adapter: none of {', '.join(_TENSORS.values())}")
    add_saved_adapter(model, found, name=name)
    if source is not None and (other := _other_model(found, Path(source))):
        logger.warning("the adapter in %s was trained on %s, and is used on %s", folder, other,
                       source)  # fmt: skip


def _other_model(folder: Path, source: Path) -> str | None:
    """Return the model that an adapter names, None if it is that of `source` or none is named."""
    values = read_json(folder / (_BASE if (folder / _BASE).is_file() else _CONFIG))
    name = values.get("model") or values.get("base_model_name_or_path")
    if not isinstance(name, str) or Path(name).name == source.resolve().name:
        return None  # hub names end with the name of the folder
    ours = {source.resolve(), source.resolve() / "model"}
    named = [place.resolve() for place in (Path(name), folder / name)]
    return None if ours & {path for each in named for path in (each, each / "model")} else name


def write_adapter(model: nn.Module, folder: Path, base: Base, form: AdapterFormat) -> None:
    """Write the adapter of a model, and which model it belongs to."""
    if form == "peft":
        save_adapter(model, folder)
    else:
        save_mlx_lm_adapter(model, folder, rename=partial(_rename, model, _GPT2_PREFIX, "model."))
    text = json.dumps(asdict(base), indent=2) + "\n"
    write_atomic(folder / _BASE, lambda path: path.write_text(text, encoding="utf-8"))


def _rename(model: nn.Module, before: str, after: str, path: str) -> str:
    """Return a path in GPT-2 with another prefix; other models have the same paths everywhere."""
    is_changed = isinstance(model, GPT2) and path.startswith(before)
    return after + path.removeprefix(before) if is_changed else path
