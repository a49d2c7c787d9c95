"""Shrink the model of a folder, and measure what that changes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlx_encoders.build import named_parameters
from mlx_encoders.derived_folders import copy_files, cosines, embeddings, encode_batches
from mlx_encoders.folders import load_model, save, task_class
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.shrinking import (
    keep_layers,
    measure_importance,
    prune_heads,
    prune_units,
    sensitivity_loss,
)
from mlx_encoders.tokenizer import Tokenizer
from mlx_encoders.vocabulary import compare_tokens, trim_vocabulary

# Pooling, normalization and prompts of sentence-transformers
_COPIED = ("modules.json", "*sentence*.json", "[0-9]_*/config.json")


def shrink_folder(
    folder: Path,
    output: Path,
    *,
    layers: Sequence[int] | None = None,
    heads: int | None = None,
    units: int | None = None,
    vocabulary_texts: Sequence[str] | None = None,
    min_count: int = 1,
    texts: Sequence[str] | None = None,
    most_texts: int = 256,
) -> dict[str, Any]:
    """Write the smaller model of `folder`, with its task head, to `output`; return a report.

    In this order: layers, heads, units, vocabulary. With `texts`, `most_texts` of them at even
    distances measure the importance of heads and units by their first 128 tokens, and the report
    compares tokens and embeddings before and after. Without texts, importance is the norm of
    weights.
    """
    if (output / "vocab.txt").exists():
        raise ValueError(
            f"{output} has a vocab.txt, whose ids would not be those of the smaller model; remove "
            f"it, or name another folder"
        )
    model, loaded = load_model(folder, model_class=task_class(folder))
    tokenizer = Tokenizer.from_folder(folder)
    report: dict[str, Any] = {"dropped": list(loaded.dropped), **_sizes(model, "before")}
    used = _spread(texts or (), most_texts)
    before = embeddings(model, tokenizer, used)
    smaller = model
    if layers is not None:
        smaller = keep_layers(smaller, layers)
        report["layers"] = list(layers)
    if heads is not None or units is not None:
        batches = encode_batches(smaller, tokenizer, used)
        importance = measure_importance(smaller, sensitivity_loss(), batches) if used else None
        if heads is not None:
            smaller = prune_heads(smaller, heads, importance and importance.heads)
            report["heads"] = heads
        if units is not None:
            smaller = prune_units(smaller, units, importance and importance.units)
            report["units"] = units
    trimmed = tokenizer
    if vocabulary_texts is not None:
        smaller, trimmed, found = trim_vocabulary(smaller, tokenizer, vocabulary_texts, min_count)
        report |= {"tokens_before": found.tokens_before, "tokens_after": found.tokens_after}
        if texts:
            report["compared"] = asdict(compare_tokens(tokenizer, trimmed, texts))
    if texts:
        report |= cosines(before, embeddings(smaller, trimmed, used))
        report |= {"texts": len(texts), "texts_used": len(used)}
    save(output, smaller, trimmed)
    copy_files(folder, output, _COPIED)
    return report | _sizes(smaller, "after")


def _sizes(model: PretrainedModel, when: str) -> dict[str, int]:
    arrays = named_parameters(model).values()
    return {
        f"parameters_{when}": sum(array.size for array in arrays),
        f"bytes_{when}": sum(array.nbytes for array in arrays),
    }


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """Return `count` texts at even distances, as files are often sorted."""
    if len(texts) <= count:
        return list(texts)
    return [texts[int(i)] for i in np.linspace(0, len(texts) - 1, count)]
