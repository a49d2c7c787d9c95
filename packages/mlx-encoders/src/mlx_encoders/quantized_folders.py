"""Quantize the model of a folder, and measure what that changes."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_encoders._atomic import write_atomic
from mlx_encoders.build import named_parameters
from mlx_encoders.folders import load_model, save, task_class
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.quantization import LAST_LAYERS, quantization_config, quantize
from mlx_encoders.tokenizer import Tokenizer

_BATCH = 16
_MOST_TOKENS = 128
# Beside weights: tokenizer, pooling of sentence-transformers, prompts
_COPIED = ("*.json", "*.txt", "*/config.json")
_NOT_COPIED = ("config.json", "model.safetensors.index.json")


def quantize_folder(
    folder: Path,
    output: Path,
    *,
    mode: Any = "affine",
    bits: int | None = None,
    group_size: int | None = None,
    skip: Sequence[str] = (),
    per_layer: Mapping[str, Mapping[str, Any]] | None = None,
    texts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write the quantized model of `folder` to `output`, and return a report of it.

    Settings are those of `quantize`; `skip` adds to the last layers of task models. The report has
    the bytes of the weights, the number of quantized layers, the paths that were left, the dropped
    tensors of other tasks, and with `texts` the cosines between embeddings, which are means over
    the first 128 tokens of a text, before and after.
    """
    model, loaded = load_model(folder, model_class=task_class(folder))
    report: dict[str, Any] = {"bytes_before": _bytes(model), "dropped": list(loaded.dropped)}
    lines = [text for text in texts or () if text.strip()]
    if texts is not None and not lines:
        raise ValueError("the texts to check are all empty")
    tokenizer = Tokenizer.from_folder(folder) if lines else None
    before = [] if tokenizer is None else _embeddings(model, tokenizer, lines)
    quantize(model, bits, group_size, mode, (*LAST_LAYERS, *skip), per_layer)
    if tokenizer is not None:
        after = _embeddings(model, tokenizer, lines)
        cosines = mx.concatenate([(a * b).sum(-1) for a, b in zip(before, after, strict=True)])
        report |= {"cosine_mean": float(cosines.mean()), "cosine_min": float(cosines.min())}
        report["texts"] = len(lines)
    config = quantization_config(model) or {}
    left = [path for path, settings in config.items() if settings is False]
    quantized = sum(path.endswith(".scales") for path in named_parameters(model))
    save(output, model)
    for path in sorted({path for pattern in _COPIED for path in folder.glob(pattern)}):
        name = path.relative_to(folder)
        if str(name) not in _NOT_COPIED:
            _copy(path, output / name)
    return report | {"bytes_after": _bytes(model), "quantized": quantized, "left": left}


def _bytes(model: PretrainedModel) -> int:
    return sum(array.nbytes for array in named_parameters(model).values())


def _embeddings(
    model: PretrainedModel, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[mx.array]:
    """Return the normalized means of the texts' hidden states, a batch each."""
    limit = getattr(model.config, "max_position_embeddings", _MOST_TOKENS)
    rows = tokenizer.encode(texts, min(_MOST_TOKENS, limit))
    means = []
    for start in range(0, len(rows), _BATCH):
        batch = tokenizer.pad(rows[start : start + _BATCH])
        hidden = model.encoder_model(batch["input_ids"], batch["attention_mask"])
        hidden = hidden.astype(mx.float32)
        valid = mx.array(batch["attention_mask"])[..., None]
        mean = mx.where(valid, hidden, 0).sum(axis=1) / valid.sum(axis=1)
        means.append(mean / mx.linalg.norm(mean, axis=-1, keepdims=True))
        mx.eval(means[-1])
    return means


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, lambda path: shutil.copyfile(source, path))
