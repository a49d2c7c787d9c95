"""Load and save Hugging Face folders; tensors that do not match are listed in an error."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import mlx.core as mx

from mlx_encoders._atomic import write_atomic
from mlx_encoders._suggest import did_you_mean
from mlx_encoders.bert import BertConfig
from mlx_encoders.build import (
    EncoderConfig,
    build_model,
    encoder_class,
    named_parameters,
    parse_config,
)
from mlx_encoders.files import find_folder, read_json
from mlx_encoders.modernbert import ModernBertModel
from mlx_encoders.pretrained import EncoderModel, PretrainedModel
from mlx_encoders.quantization import check_method, quantization_config, quantize_like
from mlx_encoders.tasks import TASK_CLASSES
from mlx_encoders.tensors import place_tensors, read_checkpoint
from mlx_encoders.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)
_LISTED = 10

M = TypeVar("M", bound=PretrainedModel)


@dataclass(frozen=True)
class LoadReport:
    """The names of the tensors that did not match.

    `missing` parameters got fresh weights, or are a pooler that the model does not have.
    `unexpected` tensors are not parameters of the model. `dropped` tensors are heads of other
    tasks, stored buffers, copies of tied tensors, or tensors of another shape. All except these
    heads, copies and poolers were allowed by `new`.
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
    values = _read_config(folder)
    try:
        check_method(values)
        return parse_config(values)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


@overload
def load_model(
    name: str | Path,
    new: Sequence[str] = (),
    seed: int = 0,
    dtype: mx.Dtype | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    model_class: None = None,
    **changes: Any,
) -> tuple[EncoderModel, LoadReport]: ...
@overload
def load_model(
    name: str | Path,
    new: Sequence[str] = (),
    seed: int = 0,
    dtype: mx.Dtype | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    *,
    model_class: type[M],
    **changes: Any,
) -> tuple[M, LoadReport]: ...


def load_model(
    name: str | Path,
    new: Sequence[str] = (),
    seed: int = 0,
    dtype: mx.Dtype | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    model_class: type[PretrainedModel] | None = None,
    **changes: Any,
) -> tuple[PretrainedModel, LoadReport]:
    """Load the model of a folder or hub id, and report the tensors that did not match.

    `model_class` is a class with a task head; None is the encoder alone, without heads. `new` has
    prefixes of parameters that may be missing or mis-shaped, and then get fresh weights from
    `seed`, and of tensors that may be unexpected; any other mismatch is a `ValueError`. The encoder
    of a BERT checkpoint without pooler tensors has no pooler, unless `new` has "pooler".

    `dropout` and `attention_dropout` replace the probabilities of the config, `changes` its other
    fields. Attention dropout is slow on a CPU: it needs the attention weights, which the fused
    kernel never stores.
    """
    if isinstance(new, str):
        raise TypeError(f"new must be a sequence of prefixes, got the string {new!r}")
    folder = find_folder(name)
    tensors = read_checkpoint(folder)
    config = _changed(load_config(folder), changes).with_dropout(dropout, attention_dropout)
    chosen = model_class or encoder_class(config)
    config = _set_pooler(config, chosen, tensors, new)
    model = build_model(config, seed, model_class=chosen)
    shapes = {key: array.shape for key, array in named_parameters(model).items()}
    offered, dropped = place_tensors(tensors, shapes, chosen.base_prefix, config, folder)
    quantize_like(model, offered)
    shapes = {key: array.shape for key, array in named_parameters(model).items()}

    mis_shaped = [key for key in offered if key in shapes and offered[key].shape != shapes[key]]
    missing = [key for key in shapes if key not in offered]
    unexpected = [key for key in offered if key not in shapes]
    described = {key: f"{key} {offered[key].shape}, expected {shapes[key]}" for key in mis_shaped}
    allowed = (*new, *(chosen.base_prefix + prefix for prefix in new))
    _check_named(folder, "missing", missing, allowed)
    _check_named(folder, "unexpected", unexpected, allowed)
    _check_named(folder, "mis-shaped", mis_shaped, allowed, described)
    fitting = [(key, offered[key]) for key in shapes if key in offered and key not in mis_shaped]
    model.load_weights(fitting, strict=False)
    if dtype is not None:
        model.set_dtype(dtype)
    absent = [] if model_class else _absent_pooler(config, tensors)
    report = LoadReport(
        tuple(missing + mis_shaped + absent), tuple(unexpected), tuple(dropped + mis_shaped)
    )
    _LOGGER.info("loaded %s: %s", folder, report)
    return model, report


def load_task_model(name: str | Path, **options: Any) -> tuple[PretrainedModel, LoadReport]:
    """Load a folder or hub id into the class that its `config.json` names in `architectures`.

    `options` are those of `load_model`. Raises `ValueError` for a class that is not in
    `TASK_CLASSES`, such as that of a plain encoder.
    """
    folder = find_folder(name)
    architecture = _architecture(folder)
    if architecture not in TASK_CLASSES:
        raise ValueError(
            f"{folder / 'config.json'}: architectures names {architecture or 'no class'}, which is "
            f"not a task class{did_you_mean(architecture, TASK_CLASSES)}; name the class: "
            f"load_model(folder, model_class=...), or load the encoder alone: load_model(folder)"
        )
    return load_model(folder, model_class=TASK_CLASSES[architecture], **options)


def task_class(name: str | Path) -> type[PretrainedModel] | None:
    """Return the task class that a folder's `config.json` names; None for a plain encoder."""
    return TASK_CLASSES.get(_architecture(find_folder(name)))


def save(folder: str | Path, model: PretrainedModel, tokenizer: Tokenizer | None = None) -> None:
    """Write `config.json`, `model.safetensors` and, if given, the tokenizer's files.

    `load` and the `AutoModel` and `AutoTokenizer` of transformers read the folder. It is created if
    needed; existing files are replaced atomically.
    Raises `ValueError` for a model with adapters.
    """
    folder = Path(folder)
    weights = named_parameters(model)
    if adapted := next((path for path in weights if ".base_layer." in path), None):
        layer = adapted.partition(".base_layer.")[0]
        raise ValueError(
            f"{layer} has an adapter, which the folder of a model has no place for; merge it into "
            f"the weights first, or save it alone"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        folder / "model.safetensors",
        # transformers refuses a file that does not name the framework of its layout.
        lambda path: mx.save_safetensors(str(path), weights, metadata={"format": "pt"}),
    )
    values = model.config.to_dict(model.architecture or type(model).__name__)
    quantization = quantization_config(model)
    if quantization is not None:
        if isinstance(model, ModernBertModel):  # a level further down in mlx-embeddings
            layers = {path: each for path, each in quantization.items() if "." in path}
            quantization |= {f"model.{path}": each for path, each in layers.items()}
        # Readers differ in the key.
        values |= {"quantization": quantization, "quantization_config": quantization}
    config = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_atomic(folder / "config.json", lambda path: path.write_text(config, encoding="utf-8"))
    if tokenizer is not None:
        tokenizer.save(folder)


def _read_config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    return read_json(path)


def _architecture(folder: Path) -> str:
    named = _read_config(folder).get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _changed(config: EncoderConfig, changes: dict[str, Any]) -> EncoderConfig:
    known = vars(config)
    for name in changes:
        if name not in known:
            kind = type(config).__name__
            raise TypeError(f"{kind} has no field {name!r}{did_you_mean(name, known)}")
    if "num_labels" in changes and "id2label" not in changes:
        kept = config.id2label if changes["num_labels"] == config.num_labels else None
        changes = {**changes, "id2label": kept}
    elif changes.get("id2label"):
        changes = {"num_labels": len(changes["id2label"]), **changes}
    return replace(config, **changes)


def _set_pooler(
    config: EncoderConfig,
    model_class: type[PretrainedModel],
    tensors: dict[str, mx.array],
    new: Sequence[str],
) -> EncoderConfig:
    """Give a plain BERT a pooler if its checkpoint has one; task classes decide for themselves."""
    if not isinstance(config, BertConfig) or model_class.base_prefix:
        return config
    if any(prefix.startswith("pooler") for prefix in new):
        return replace(config, add_pooling_layer=True)
    stored = any(name.startswith("pooler.") for name in tensors)
    return replace(config, add_pooling_layer=config.add_pooling_layer and stored)


def _absent_pooler(config: EncoderConfig, tensors: dict[str, mx.array]) -> list[str]:
    if not isinstance(config, BertConfig) or config.add_pooling_layer:
        return []
    return [name for name in ("pooler.dense.weight", "pooler.dense.bias") if name not in tensors]


def _check_named(
    folder: Path,
    problem: str,
    names: Sequence[str],
    new: Sequence[str],
    descriptions: dict[str, str] | None = None,
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
