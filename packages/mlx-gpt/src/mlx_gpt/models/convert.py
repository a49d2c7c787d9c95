"""Convert nanochat's checkpoints, which are torch files, to model folders.

The checkpoints do not store the version of the model; the names of their tensors identify it:

until 11 January 2026    embeddings, blocks and head only: `models.nanochat_2025`
until 14 March 2026      with `resid_lambdas`: windows, gates and scales changed every few days;
                         not supported
since                    with `smear_lambda`: `models.nanochat`
"""

import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from mlx_gpt.models.files import fill_weights, save_manifest, save_model
from mlx_gpt.models.formats import Decoder, strict_config
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.models.pickles import check_unsafe, read_nanochat_tokenizer, read_torch_file
from mlx_gpt.models.shards import read_json


def convert_nanochat(
    checkpoint: str | Path,
    output: str | Path,
    step: int | None = None,
    tokenizer: str | Path | None = None,
    unsafe: bool = False,
) -> Decoder:
    """Write a checkpoint of nanochat, and its `tokenizer.pkl` if given, as a model folder.

    Arguments and errors are those of `load_nanochat` and `read_nanochat_tokenizer`; a tokenizer of
    another size is a `ValueError`. Everything is read before anything is written.
    """
    model = load_nanochat(checkpoint, step, unsafe)
    size = model.config.vocab_size
    converted = read_nanochat_tokenizer(tokenizer, unsafe) if tokenizer else None
    if converted and converted.vocab_size != size:
        raise ValueError(
            f"{tokenizer} has {converted.vocab_size} tokens, but the model of {checkpoint} {size}"
        )
    save_model(model, output, converted.sha256 if converted else None)
    if converted:
        converted.save(output)
    save_manifest(Path(output))
    return model


def load_nanochat(checkpoint: str | Path, step: int | None = None, unsafe: bool = False) -> Decoder:
    """Return the model of a checkpoint folder of nanochat; `step` None is the last one.

    Weights keep their dtype. The file is a pickle and requires `unsafe`, although the reader calls
    no function named in it. Raises `FileNotFoundError` for a missing file, `ValueError` for a
    damaged one or an unsupported model.
    """
    folder = Path(checkpoint)
    step = _last_step(folder) if step is None else step
    weights, meta = folder / f"model_{step:06d}.pt", folder / f"meta_{step:06d}.json"
    for path in (weights, meta):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    check_unsafe(weights, unsafe)
    return model_from_tensors(
        _model_config(meta), read_torch_file(weights), f"{folder}, step {step}"
    )


def model_from_tensors(
    model_config: Mapping[str, object], tensors: Mapping[str, mx.array], source: str
) -> Decoder:
    """Return the model of a checkpoint's `model_config` and state dict; `source` is for errors."""
    # torch.compile adds a prefix.
    tensors = {name.removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}
    if "resid_lambdas" in tensors and "smear_lambda" not in tensors:
        raise ValueError(
            f"{source}: a model of nanochat between 11 January and 14 March 2026 (it has "
            f"resid_lambdas, but no smear_lambda); only older and newer ones are supported"
        )
    newer = "smear_lambda" in tensors
    try:
        if newer:  # with nanochat's defaults for older checkpoints
            config = strict_config(NanochatConfig, {"window_pattern": "L", **model_config})
            model = Nanochat(config)
            layers = config.n_layer
            scalars = {"resid_lambdas": mx.ones(layers), "x0_lambdas": mx.zeros(layers)}
            tensors = scalars | tensors
        else:
            model = Nanochat2025(strict_config(Nanochat2025Config, model_config))
            tensors = _without_padding(tensors, model.config.vocab_size)
    except ValueError as error:
        raise ValueError(f"{source}: model_config: {error}") from None
    fill_weights(model, tensors, source)
    return model


def _without_padding(tensors: Mapping[str, mx.array], vocab_size: int) -> dict[str, mx.array]:
    """Return the tensors without the padding rows of the vocabulary, which mlx-lm refuses."""
    tables = ("transformer.wte.weight", "lm_head.weight")
    return {name: each[:vocab_size] if name in tables else each for name, each in tensors.items()}


def _model_config(meta: Path) -> dict[str, object]:
    config = read_json(meta).get("model_config")
    if not isinstance(config, dict):
        raise ValueError(f"{meta} has no model_config")
    return config


def _last_step(folder: Path) -> int:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = [re.fullmatch(r"model_(\d+)\.pt", path.name) for path in folder.iterdir()]
    steps = [int(match[1]) for match in found if match]
    if not steps:
        raise FileNotFoundError(f"{folder} has no model_<step>.pt")
    return max(steps)
