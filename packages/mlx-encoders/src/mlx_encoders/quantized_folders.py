"""Quantize the model of a folder, and measure what that changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_encoders.build import named_parameters
from mlx_encoders.derived_folders import copy_files, cosines, embeddings
from mlx_encoders.folders import load_model, save, task_class
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.quantization import LAST_LAYERS, quantization_config, quantize
from mlx_encoders.tokenizer import Tokenizer

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
    before = [] if tokenizer is None else embeddings(model, tokenizer, lines)
    quantize(model, bits, group_size, mode, (*LAST_LAYERS, *skip), per_layer)
    if tokenizer is not None:
        report |= cosines(before, embeddings(model, tokenizer, lines))
        report["texts"] = len(lines)
    config = quantization_config(model) or {}
    left = [path for path, settings in config.items() if settings is False]
    quantized = sum(path.endswith(".scales") for path in named_parameters(model))
    save(output, model)
    copy_files(folder, output, _COPIED, _NOT_COPIED)
    return report | {"bytes_after": _bytes(model), "quantized": quantized, "left": left}


def _bytes(model: PretrainedModel) -> int:
    return sum(array.nbytes for array in named_parameters(model).values())
