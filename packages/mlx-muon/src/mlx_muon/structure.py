"""The kind of each parameter: embedding, head, norm or bias, or a matrix inside the model.

A matrix with the vocabulary's size and the last layer of a model have a row or column for each
token or class, so they need AdamW, whatever their names. Names are used only if the structure of
the model is not conclusive.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

LINEAR = nn.Linear | nn.QuantizedLinear

EMBEDDINGS = {"embed", "embeds", "embedding", "embeddings", "emb", "embs", "wte", "wpe"}
# These count only at the end of a name: `cls_token` is an embedding, `token_mixing` is not.
TABLES = {"pos", "position", "positions", "positional", "token", "tokens"}
# Tables whose rows are not a vocabulary: positions, distances, segments, patches of an image.
NO_VOCABULARY = {"pos", "position", "positions", "positional", "wpe", "relative", "bias"}
NO_VOCABULARY |= {"type", "segment", "patch"}
HEADS = {"head", "classifier", "score", "qa_outputs", "to_logits", "unembed", "decoder"}
# These count only at the root: GPT-J has a `fc_out` in each block.
ROOT_HEADS = (HEADS - {"decoder"}) | {"output", "output_layer", "logits", "generator", "fc_out"}
NORMS_AND_BIASES = {"bias", "norm", "layernorm", "rmsnorm", "ln", "log"}


@dataclass
class Structure:
    """By path: (kind, reason) if the structure determines it; the paths of convolutions."""

    kinds: dict[str, tuple[str, str]] = field(default_factory=dict)
    convolutions: set[str] = field(default_factory=set)


def structure_of(parameters: dict, held: Mapping[str, Collection[str]] = {}) -> Structure:
    """Return the kinds that a model's structure determines, or a tree's with less certainty.

    In a tree only names identify embeddings, and the last layer is unknown. There the names in the
    existing state `held` show how a parameter was trained.
    """
    if not isinstance(parameters, nn.Module):
        return _structure_of_tree(flatten(parameters), held)
    structure, tables = Structure(), {}
    for name, module in parameters.named_modules():
        path = f"{name}.weight" if name else "weight"
        if isinstance(module, nn.Embedding):
            tables[path] = (module.weight.shape[0], module.weight.shape[1])
        elif isinstance(module, nn.QuantizedEmbedding):
            tables[path] = (module.num_embeddings, module.dims)
        elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):  # others have more axes
            structure.convolutions.add(path)
    blocks = _block_prefixes(parameters)
    arrays = flatten(parameters.parameters())
    if output := _output_weight(parameters):
        structure.kinds[output] = ("head", "the last Linear of the model")
    structure.kinds |= _vocabulary_sized(arrays, tables, lambda path: path.startswith(blocks))
    structure.kinds |= dict.fromkeys(tables, ("embedding", "an Embedding"))
    return structure


def kind_by_name(path: str, array: mx.array) -> tuple[str, str]:
    """Return "embedding", "head", "norm or bias" or "matrix", and the reason."""
    parts = path.lower().split(".")
    module, name = parts[-2] if len(parts) > 1 else "", parts[-1]
    if array.ndim < 2 or not array.size:
        return "norm or bias", "no entries" if array.ndim >= 2 else "fewer than two axes"
    if {*_words(module), *_words(name)} & NORMS_AND_BIASES:
        return "norm or bias", "its name"
    # Stacks of matrices are inside the model, whatever their names (MLA has an `embed_q`).
    if (array.ndim != 3 or 1 in array.shape) and _names_embedding(parts):
        return "embedding", "its name"
    # The first part names a head of several layers, or the "output" of Llama's checkpoints; BERT
    # has layers of that name inside.
    is_head = module in HEADS or parts[0] in ROOT_HEADS
    if is_head or any(each.endswith("_head") for each in (module, parts[0])):
        return "head", "its name"
    return "matrix", "a matrix inside the model"


def flatten(tree: object) -> dict[str, mx.array]:
    """Return the arrays of a tree by path."""
    return dict(tree_flatten(tree))  # type: ignore[arg-type]


def trainable_floats(parameters: dict) -> dict[str, mx.array]:
    """Return the floating-point parameters by path: the trainable ones of a model, all of a tree.

    Some models have index tables and masks among their parameters; these are skipped.
    """
    if isinstance(parameters, nn.Module):
        parameters = parameters.trainable_parameters()
    arrays = flatten(parameters).items()
    return {path: each for path, each in arrays if mx.issubdtype(each.dtype, mx.floating)}


def _structure_of_tree(
    arrays: dict[str, mx.array], held: Mapping[str, Collection[str]]
) -> Structure:
    # The name of the module itself counts here, not those of the modules around it.
    tables = {path: (array.shape[0], array.shape[1]) for path, array in arrays.items()
              if array.ndim == 2 and _names_embedding(path.lower().split(".")[-2:])}  # fmt: skip
    kinds = _vocabulary_sized(arrays, tables, _is_in_numbered_block)
    for path, names in held.items():
        if path in arrays:
            kind, _ = kinds.get(path) or kind_by_name(path, arrays[path])
            is_matrix = "momentum" in names
            if is_matrix != (kind == "matrix"):
                kinds[path] = ("matrix" if is_matrix else "other", "as in the loaded state")
    return Structure(kinds)


def _vocabulary_sized(
    arrays: dict[str, mx.array],
    tables: dict[str, tuple[int, int]],
    is_in_block: Callable[[str], bool],
) -> dict[str, tuple[str, str]]:
    """Return the matrices outside of blocks that share the row count of a vocabulary.

    Tables of positions do not count, because a layer may have the same size by chance; neither do
    vocabularies of the model's width.
    """
    widths = {width for _, width in tables.values()}
    vocabularies = {
        rows: path for path, (rows, _) in tables.items()
        if rows not in widths and NO_VOCABULARY.isdisjoint(_words(*path.lower().split(".")[-2:]))
    }  # fmt: skip
    kinds = {}
    for path, array in arrays.items():
        if array.ndim != 2 or path in tables or is_in_block(path):
            continue
        for size, kind in zip(array.shape, ("head", "embedding"), strict=True):
            if size in vocabularies:
                table = vocabularies[size].removesuffix(".weight")
                kinds[path] = (kind, f"{size} is the vocabulary of {table}")
                break
    return kinds


def _is_in_numbered_block(path: str) -> bool:
    return any(part.isdigit() for part in path.split(".")[:-2])


def _block_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the modules that repeat in a list, or are alone in one.

    The different modules of an `nn.Sequential` are not blocks.
    """
    items = [(name.rpartition(".")[0], type(module), name)
             for name, module in model.named_modules()
             if name.rpartition(".")[2].isdigit() and module.children()]  # fmt: skip
    alike = Counter((parent, kind) for parent, kind, _ in items)
    together = Counter(parent for parent, _, _ in items)
    return tuple(
        f"{name}." for parent, kind, name in items
        if alike[parent, kind] > 1 or together[parent] == 1
    )  # fmt: skip


def _output_weight(model: nn.Module) -> str | None:
    """Return the path of the last layer's weight, if the layer is an `nn.Linear`.

    A square weight is not an output if others have its size, such as attention projections.
    """
    last = _last_linear(model, "")
    if last is None:
        return None
    path, shape = last
    alike = sum(isinstance(each, LINEAR) and each.weight.shape == shape for each in model.modules())
    return None if shape[0] == shape[1] and alike > 1 else path


def _last_linear(module: Any, name: str) -> tuple[str, tuple[int, ...]] | None:
    """Search only lists, `nn.Sequential`s and the only module of a model."""
    is_list = isinstance(module, list)
    parts = enumerate(module) if is_list else module.children().items()
    parts = [(key, part) for key, part in parts if _has_matrices(part)]
    if not parts:
        return None
    key, part = parts[-1]
    path = f"{name}.{key}" if name else str(key)
    if isinstance(part, LINEAR):
        return f"{path}.weight", part.weight.shape
    is_only = len(parts) == 1 and not is_list
    return _last_linear(part, path) if is_only or isinstance(part, list | nn.Sequential) else None


def _has_matrices(part: Any) -> bool:
    if isinstance(part, list):
        return any(map(_has_matrices, part))
    if not isinstance(part, nn.Module):
        return False
    return any(array.ndim >= 2 for array in flatten(part.parameters()).values())


def _names_embedding(parts: list[str]) -> bool:
    if EMBEDDINGS & set(_words(*parts)):
        return True
    last = [words[-1] for part in parts[-2:] if (words := _words(part))]
    is_encoding = any(re.match(r"pos(ition(al)?)?_?enc", part) for part in parts[-2:])
    return is_encoding or bool(TABLES & set(last))


def _words(*parts: str) -> list[str]:
    return [word for part in parts for word in re.split(r"_|\d+", part) if word]
