"""Read the tensors of a checkpoint, and give them the names of a model's parameters."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_encoders.files import read_json, read_tensors

# Put before names by task classes, DataParallel, torch.compile and sentence-transformers.
_PREFIXES = re.compile(r"^(?:(?:module|_orig_mod|0|auto_model|bert|model)\.)+")
# Heads of the classes ForMaskedLM, ForSequenceClassification, ... of all families
_HEADS = ("cls.", "classifier.", "qa_outputs.", "head.", "decoder.", "score.", "dense.")
# The bias of BERT's masked-LM logits has the first name if embeddings are tied, else the second;
# transformers stores the other too, as a copy or unused.
_MLM_BIASES = ("cls.predictions.bias", "cls.predictions.decoder.bias")
_POSITION_IDS = "embeddings.position_ids"  # a buffer that older checkpoints stored
# Layers whose weights models with tied embeddings store a second time, and the first.
_COPIES = {
    f"{copy}.{part}": f"{first}.{part}"
    for copy, first in (
        ("cls.predictions.decoder", "embeddings.word_embeddings"),
        ("decoder", "embeddings.tok_embeddings"),
    )
    for part in ("weight", "scales", "biases")  # the last two if quantized
}


def read_checkpoint(folder: Path) -> dict[str, mx.array]:
    """Return the tensors of a folder by name, without the prefixes of task classes.

    From `model.safetensors` or, by their index, from several files. Raises `FileNotFoundError` for
    missing files, with advice for pickled weights.
    """
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
        for original, array in read_tensors(file).items():
            name = _canonical(original)
            if name in tensors:
                raise ValueError(f"{folder} has two tensors for {name}; one of them is {original}")
            tensors[name] = array
    return tensors


def place_tensors(
    tensors: dict[str, mx.array],
    parameters: Collection[str],
    base_prefix: str,
    config: Any,
    folder: Path,
) -> tuple[dict[str, mx.array], list[str]]:
    """Return the tensors by parameter path, and the names of those that the model has no use for.

    These are heads of other tasks, a pooler, stored buffers, and copies of tied tensors. Raises
    `ValueError` for a copy with other values.
    """
    modules = {path.rpartition(".")[0] for path in parameters}
    tied = config.tie_word_embeddings
    bias, unused = _MLM_BIASES if tied else reversed(_MLM_BIASES)
    if unused in tensors and bias not in tensors:
        tensors = {bias if name == unused else name: each for name, each in tensors.items()}
    placed, dropped = {}, []
    for name, array in tensors.items():
        path = name if name.startswith(_HEADS) else base_prefix + name
        is_optional = name.startswith((*_HEADS, "pooler."))
        is_copy = tied and name in _COPIES
        if is_copy:
            _check_copy(name, _COPIES[name], tensors, folder)
        is_absent = is_optional and path.rpartition(".")[0] not in modules
        if is_copy or is_absent or name in (unused, _POSITION_IDS):
            dropped.append(name)
        else:
            placed[path] = array
    return placed, dropped


def _canonical(name: str) -> str:
    """Remove prefixes, and name norms as PyTorch does."""
    name = _PREFIXES.sub("", name)
    if name.endswith("LayerNorm.gamma"):  # checkpoints converted from TensorFlow
        return name.removesuffix("gamma") + "weight"
    if name.endswith("LayerNorm.beta"):
        return name.removesuffix("beta") + "bias"
    return name


def _check_copy(copy: str, first: str, tensors: dict[str, mx.array], folder: Path) -> None:
    if first not in tensors:
        return
    one, other = tensors[first], tensors[copy]
    if one.shape != other.shape or not bool((one == other).all()):
        raise ValueError(
            f"{folder}: {copy} differs from {first}, though they are tied; "
            f"load with tie_word_embeddings=False, or mend the checkpoint"
        )
