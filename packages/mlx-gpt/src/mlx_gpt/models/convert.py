"""Checkpoints of nanochat, in torch's format, to model folders.

nanochat's model has changed without its checkpoints saying so, but the names of their tensors tell:

until 11 January 2026    embeddings, blocks and head only: `models.nanochat_2025`
until 14 March 2026      with `resid_lambdas`: other windows, gates and scales every few days, of
                         which none is computed here
since                    with `smear_lambda`: `models.nanochat`
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from mlx_gpt.models.files import fill, save_manifest, save_model
from mlx_gpt.models.formats import Decoder, strict_config
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.models.torch_files import read_torch_file
from mlx_gpt.tokenizer.convert import convert_nanochat_tokenizer


def convert_nanochat(
    checkpoint: str | Path,
    output: str | Path,
    step: int | None = None,
    tokenizer: str | Path | None = None,
    unsafe: bool = False,
) -> Decoder:
    """Write a checkpoint of nanochat, and its `tokenizer.pkl` if given, as a model folder.

    Arguments and errors are those of `nanochat_model` and `convert_nanochat_tokenizer`;
    a tokenizer of another size is a `ValueError`. Nothing is written before all of it is read.
    """
    model = nanochat_model(checkpoint, step, unsafe)
    size = model.config.vocab_size
    converted = convert_nanochat_tokenizer(tokenizer, unsafe) if tokenizer else None
    if converted and converted.vocab_size != size:
        raise ValueError(
            f"{tokenizer} has {converted.vocab_size} tokens, but the model of {checkpoint} {size}"
        )
    save_model(model, output, converted.sha256 if converted else None)
    if converted:
        converted.save(output)
    save_manifest(Path(output))
    return model


def nanochat_model(
    checkpoint: str | Path, step: int | None = None, unsafe: bool = False
) -> Decoder:
    """Return the model of a checkpoint folder of nanochat; `step` None is its last.

    Weights keep their dtype. The file is a pickle: none is opened without `unsafe`, although what
    reads it calls nothing that the pickle names. Raises `FileNotFoundError` for a missing file, and
    `ValueError` for one that is damaged, or whose model is neither of the two that are known here.
    """
    folder = Path(checkpoint)
    step = _last_step(folder) if step is None else step
    weights, meta = folder / f"model_{step:06d}.pt", folder / f"meta_{step:06d}.json"
    for path in (weights, meta):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
    if not unsafe:
        raise ValueError(
            f"{weights} is a pickle, which can run programs; say unsafe=True (--unsafe) if you "
            f"trust where it comes from"
        )
    return model_from_tensors(
        _model_config(meta), read_torch_file(weights), f"{folder}, step {step}"
    )


def model_from_tensors(
    model_config: Mapping[str, object], tensors: Mapping[str, mx.array], source: str
) -> Decoder:
    """Return the model of a checkpoint's `model_config` and state dict; errors name `source`."""
    # torch.compile puts something before the names.
    tensors = {name.removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}
    if "resid_lambdas" in tensors and "smear_lambda" not in tensors:
        raise ValueError(
            f"{source}: a model of nanochat between 11 January and 14 March 2026 (it has "
            f"resid_lambdas, but no smear_lambda); only older and newer ones can be computed here"
        )
    newer = "smear_lambda" in tensors
    try:
        model = _newer(model_config) if newer else _older(model_config)
    except ValueError as error:
        raise ValueError(f"{source}: model_config: {error}") from None
    fill(model, _with_defaults(model, tensors) if newer else _cut(model, tensors), source)
    return model


def _newer(model_config: Mapping[str, object]) -> Nanochat:
    # What nanochat itself assumes of checkpoints without the key.
    return Nanochat(strict_config(NanochatConfig, {"window_pattern": "L", **model_config}))


def _older(model_config: Mapping[str, object]) -> Nanochat2025:
    return Nanochat2025(strict_config(Nanochat2025Config, model_config))


def _with_defaults(model: Decoder, tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Return the tensors, with what nanochat itself assumes of checkpoints without scalars."""
    layers = model.config.n_layer
    return {"resid_lambdas": mx.ones(layers), "x0_lambdas": mx.zeros(layers), **tensors}


def _cut(model: Decoder, tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Return the tensors without the rows that are no tokens, which mlx-lm does not expect."""
    rows = model.config.vocab_size
    tables = ("transformer.wte.weight", "lm_head.weight")
    return {name: tensor[:rows] if name in tables else tensor for name, tensor in tensors.items()}


def _model_config(meta: Path) -> dict[str, object]:
    try:
        content = json.loads(meta.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{meta} is not JSON: {error}") from None
    config = content.get("model_config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise ValueError(f"{meta} has no model_config")
    return config


def _last_step(folder: Path) -> int:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    found = [re.fullmatch(r"model_(\d+)\.pt", path.name) for path in folder.iterdir()]
    steps = [int(match[1]) for match in found if match]
    if not steps:
        raise FileNotFoundError(f"{folder} has no model_<step>.pt")
    return max(steps)
