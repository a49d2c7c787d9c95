"""What a model's structure says of its parameters: tables, output layers, convolutions.

A matrix of the vocabulary's size, and the last layer of a model, get a row or column of gradient
for each token or class: AdamW's work, whatever they are called. Names come second, in
`matching.py`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_muon.arrays import flat
from mlx_muon.names import is_other_table, is_table, kind_by_name

LINEAR = nn.Linear | nn.QuantizedLinear


@dataclass
class Structure:
    """By path: (kind, why) where the structure decides; and which weights are convolutions."""

    kinds: dict[str, tuple[str, str]] = field(default_factory=dict)
    convolutions: set[str] = field(default_factory=set)


def structure_of(parameters: dict, held: Mapping[str, Collection[str]] = {}) -> Structure:
    """Return what can be known of a model, or with less certainty of a tree of parameters.

    In a tree, embeddings are known by their names alone, and the last layer is not; so the state
    `held` for a parameter, whose names are given, says what it was when it was trained.
    """
    if not isinstance(parameters, nn.Module):
        return _structure_of_tree(flat(parameters), held)
    found, tables = Structure(), {}
    for name, module in parameters.named_modules():
        path = f"{name}.weight" if name else "weight"
        if isinstance(module, nn.Embedding):
            tables[path] = (module.weight.shape[0], module.weight.shape[1])
        elif isinstance(module, nn.QuantizedEmbedding):
            tables[path] = (module.num_embeddings, module.dims)
        elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):  # others have more axes
            found.convolutions.add(path)
    blocks = _blocks(parameters)
    arrays = flat(parameters.parameters())
    if output := _output(parameters):
        found.kinds[output] = ("head", "the last Linear of the model")
    found.kinds |= _of_vocabulary_size(arrays, tables, lambda path: path.startswith(blocks))
    found.kinds |= dict.fromkeys(tables, ("embedding", "an Embedding"))
    return found


def _structure_of_tree(
    arrays: dict[str, mx.array], held: Mapping[str, Collection[str]]
) -> Structure:
    tables = {path: (array.shape[0], array.shape[1]) for path, array in arrays.items()
              if array.ndim == 2 and is_table(path)}  # fmt: skip
    kinds = _of_vocabulary_size(arrays, tables, _is_in_numbered_block)
    for path, names in held.items():
        if path in arrays:
            kind, _ = kinds.get(path) or kind_by_name(path, arrays[path])
            is_matrix = "momentum" in names
            if is_matrix != (kind == "matrix"):
                kinds[path] = ("matrix" if is_matrix else "other", "as in the state loaded")
    return Structure(kinds)


def _of_vocabulary_size(
    arrays: dict[str, mx.array],
    tables: dict[str, tuple[int, int]],
    is_in_block: Callable[[str], bool],
) -> dict[str, tuple[str, str]]:
    """Return the matrices that share the rows of a table, but for those inside of blocks.

    A table of 512 positions says nothing of the layers that have 512 units, nor does a vocabulary
    as large as the model is wide.
    """
    widths = {width for _, width in tables.values()}
    vocabularies = {rows: path for path, (rows, _) in tables.items()
                    if rows not in widths and not is_other_table(path)}  # fmt: skip
    found = {}
    for path, array in arrays.items():
        if array.ndim != 2 or path in tables or is_in_block(path):
            continue
        for size, kind in zip(array.shape, ("head", "embedding"), strict=True):
            if size in vocabularies:
                table = vocabularies[size].removesuffix(".weight")
                found[path] = (kind, f"{size} is the vocabulary of {table}")
                break
    return found


def _is_in_numbered_block(path: str) -> bool:
    """Say whether a number is in the path, and more after it than the parameter's own name."""
    return any(part.isdigit() for part in path.split(".")[:-2])


def _blocks(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of all modules that are one of several alike in a list, or alone in it.

    The parts of an `nn.Sequential` of different modules are none.
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


def _output(model: nn.Module) -> str | None:
    """Return the path of the weight of the last layer, if that is an `nn.Linear`.

    Of square layers of one size none is taken for the output: in attention all projections are.
    """
    found = _last_linear(model, "")
    if found is None:
        return None
    path, shape = found
    alike = sum(isinstance(each, LINEAR) and each.weight.shape == shape for each in model.modules())
    return None if shape[0] == shape[1] and alike > 1 else path


def _last_linear(module: Any, name: str) -> tuple[str, tuple[int, ...]] | None:
    """Look into lists, `nn.Sequential`s and the only module of a model, not into others."""
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
    return any(array.ndim >= 2 for array in flat(part.parameters()).values())
