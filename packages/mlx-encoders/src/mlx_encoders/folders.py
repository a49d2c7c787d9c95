"""Load and save Hugging Face folders; tensors that do not match are listed in an error."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from mlx_encoders._atomic import write_atomic
from mlx_encoders.bert import BertConfig
from mlx_encoders.build import (
    EncoderConfig,
    EncoderModel,
    build_model,
    named_parameters,
    parse_config,
)
from mlx_encoders.files import find_folder, read_json, read_tensors
from mlx_encoders.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)

# Heads of the classes ForMaskedLM, ForSequenceClassification, ...
_HEADS = ("cls.", "classifier.", "qa_outputs.", "head.", "decoder.", "score.")
_POSITION_IDS = "embeddings.position_ids"  # a buffer that older checkpoints stored
_LISTED = 10


@dataclass(frozen=True)
class LoadReport:
    """The names of the tensors that did not match.

    `missing` parameters got fresh weights, or are a pooler that the model does not have.
    `unexpected` tensors are not parameters of the model. `dropped` tensors are task heads, stored
    buffers, or tensors of another shape. All except heads and pooler were allowed by `new`.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def load(name: str | Path, dtype: mx.Dtype | None = None) -> tuple[EncoderModel, Tokenizer]:
    """Load the model and tokenizer of a folder or hub id; the model is in evaluation mode.

    `dtype` converts the weights; None keeps the stored type. Raises `ValueError` when tensors do
    not match, the tokenizer has more tokens than the model, or the config has an unsupported value;
    `FileNotFoundError` when a file is missing.
    """
    folder = find_folder(name)
    model, _ = load_model(folder, dtype=dtype)
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, but the model has "
            f"embeddings for {model.config.vocab_size}; use the tokenizer of this model"
        )
    return model, tokenizer


def load_config(name: str | Path) -> EncoderConfig:
    """Read `config.json` of a folder or hub id."""
    folder = find_folder(name)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    try:
        return parse_config(read_json(path))
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def load_model(
    name: str | Path,
    new: Sequence[str] = (),
    seed: int = 0,
    dtype: mx.Dtype | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> tuple[EncoderModel, LoadReport]:
    """Load the model of a folder or hub id, and report the tensors that did not match.

    `new` has prefixes of parameters that may be missing or mis-shaped, and then get fresh weights
    from `seed`, and of tensors that may be unexpected; any other mismatch is a `ValueError`. The
    model of a BERT checkpoint without pooler tensors has no pooler, unless `new` has "pooler".

    `dropout` and `attention_dropout` replace the probabilities of the config. Attention dropout is
    slow on a CPU: it needs the attention weights, which the fused kernel never stores.
    """
    if isinstance(new, str):
        raise TypeError(f"new must be a sequence of prefixes, got the string {new!r}")
    folder = find_folder(name)
    tensors, dropped = _split_heads(_rename(_read_tensors(folder)))
    config = load_config(folder).with_dropout(dropout, attention_dropout)
    config = _set_pooler(config, tensors, new)
    if isinstance(config, BertConfig) and not config.add_pooling_layer:
        dropped += [tensor for tensor in tensors if tensor.startswith("pooler.")]
    model = build_model(config, seed)
    shapes = {key: array.shape for key, array in named_parameters(model).items()}
    offered = {tensor: array for tensor, array in tensors.items() if tensor not in dropped}

    mis_shaped = [key for key in offered if key in shapes and offered[key].shape != shapes[key]]
    missing = [key for key in shapes if key not in offered]
    unexpected = [key for key in offered if key not in shapes]
    _check_named(folder, "missing", missing, new)
    _check_named(folder, "unexpected", unexpected, new)
    _check_named(
        folder,
        "mis-shaped",
        mis_shaped,
        new,
        {key: f"{key} {offered[key].shape}, expected {shapes[key]}" for key in mis_shaped},
    )
    fitting = [(key, offered[key]) for key in shapes if key in offered and key not in mis_shaped]
    model.load_weights(fitting, strict=False)
    if dtype is not None:
        model.set_dtype(dtype)
    absent_pooler = _absent_pooler(config, tensors)
    report = LoadReport(
        tuple(missing + mis_shaped + absent_pooler), tuple(unexpected), tuple(dropped + mis_shaped)
    )
    _LOGGER.info("loaded %s: %s", folder, report)
    return model, report


def save(folder: str | Path, model: EncoderModel, tokenizer: Tokenizer | None = None) -> None:
    """Write `config.json`, `model.safetensors` and, if given, the tokenizer's files.

    `load` and the `AutoModel` and `AutoTokenizer` of transformers read the folder. It is created if
    needed; existing files are replaced atomically.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = named_parameters(model)
    write_atomic(
        folder / "model.safetensors",
        # transformers refuses a file that does not name the framework of its layout.
        lambda path: mx.save_safetensors(str(path), weights, metadata={"format": "pt"}),
    )
    config = json.dumps(model.config.to_dict(), indent=2, sort_keys=True) + "\n"
    write_atomic(folder / "config.json", lambda path: path.write_text(config, encoding="utf-8"))
    if tokenizer is not None:
        tokenizer.save(folder)


def _read_tensors(folder: Path) -> dict[str, mx.array]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(file, str) for file in weight_map.values()
        ):
            raise ValueError(
                f"{index}: weight_map must name the file of each tensor; "
                "copy or download the file again"
            )
        files = [folder / file for file in sorted(set(weight_map.values()))]
    else:
        files = [folder / "model.safetensors"]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(absent)}; pickled weights (pytorch_model.bin) are not "
            f"read: convert them with transformers' save_pretrained"
        )
    tensors: dict[str, mx.array] = {}
    for file in files:
        tensors |= read_tensors(file)
    return tensors


def _rename(tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Remove the prefix of task checkpoints, and name norms as PyTorch does."""
    renamed = {}
    for name, array in tensors.items():
        name = name.removeprefix("bert.").removeprefix("model.")
        if name.endswith("LayerNorm.gamma"):  # checkpoints converted from TensorFlow
            name = name.removesuffix("gamma") + "weight"
        elif name.endswith("LayerNorm.beta"):
            name = name.removesuffix("beta") + "bias"
        renamed[name] = array
    return renamed


def _split_heads(tensors: Mapping[str, mx.array]) -> tuple[dict[str, mx.array], list[str]]:
    dropped = [name for name in tensors if name.startswith(_HEADS) or name == _POSITION_IDS]
    return {name: array for name, array in tensors.items() if name not in dropped}, dropped


def _set_pooler(
    config: EncoderConfig, tensors: Mapping[str, mx.array], new: Sequence[str]
) -> EncoderConfig:
    if not isinstance(config, BertConfig):
        return config
    wanted = any(prefix.startswith("pooler") for prefix in new)
    if wanted:
        return replace(config, add_pooling_layer=True)
    stored = any(name.startswith("pooler.") for name in tensors)
    return replace(config, add_pooling_layer=config.add_pooling_layer and stored)


def _absent_pooler(config: EncoderConfig, tensors: Mapping[str, mx.array]) -> list[str]:
    if not isinstance(config, BertConfig) or config.add_pooling_layer:
        return []
    return [name for name in ("pooler.dense.weight", "pooler.dense.bias") if name not in tensors]


def _check_named(
    folder: Path,
    problem: str,
    names: Sequence[str],
    new: Sequence[str],
    descriptions: Mapping[str, str] | None = None,
) -> None:
    unnamed = [name for name in names if not name.startswith(tuple(new))]
    if not unnamed:
        return
    listed = ", ".join((descriptions or {}).get(name, name) for name in unnamed[:_LISTED])
    more = ", ..." if len(unnamed) > _LISTED else ""
    raise ValueError(
        f"{len(unnamed)} {problem} tensors in {folder}: {listed}{more}; "
        f"name prefixes in `new` to accept that"
    )
