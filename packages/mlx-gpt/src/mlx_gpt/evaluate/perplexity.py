"""Held-out loss of rows of any layout: perplexity and bits per byte, beside a unigram model.

Every token that the mask selects counts once, with equal weight. A row longer than the model's
context is cut into windows of that length, each of which starts without memory of the one before.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.data.examples import Example, OnBadRow, read_examples
from mlx_gpt.data.supervision import Mask
from mlx_gpt.evaluate.choice_tasks import shuffle
from mlx_gpt.evaluate.likelihood import padded_batches
from mlx_gpt.evaluate.metrics import sum_over_ranks
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_gpt.training.losses import head_losses
from mlx_trainer import rank, world_size


@dataclass(frozen=True)
class HeldOut:
    """The rows to measure on, the number of rows in the files, and notes on what was left out."""

    rows: list[Example]
    available: int
    notes: list[str]


def read_held_out(
    files: Sequence[Path],
    tokenizer: AnyTokenizer,
    mask: Mask = "assistant",
    limit: int | None = None,
    on_bad_row: OnBadRow = "error",
) -> HeldOut:
    """Return at most `limit` rows of files, after a shuffle with a fixed seed."""
    found = read_examples(files, tokenizer, mask, None, on_bad_row)
    rows = shuffle(found.rows)[:limit] if limit else found.rows
    return HeldOut(rows, found.read, found.summary())


def evaluate_perplexity(
    model: Decoder,
    tokenizer: AnyTokenizer,
    held_out: HeldOut,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Return the mean loss per token in nats, its exponential, and the bits per byte.

    Special tokens, as the one that ends a turn, count in the loss but stand for no bytes, so that
    they do not count in the bits per byte. `unigram` has the same numbers for the best model that
    ignores context: the frequencies of the measured tokens themselves. `advance` is called with
    numbers of rows. Under `mlx.launch` ranks share the rows and all get the result.
    """
    sizes = tokenizer.token_bytes()
    mine = held_out.rows[rank() :: world_size()]
    counts = np.zeros(len(sizes))
    nats = byte_nats = 0.0
    for done, inputs, targets in _batches(mine, model.config.sequence_len, batch_size):
        losses = head_losses(model, model.hidden_states(mx.array(inputs)), mx.array(targets))
        kept = targets != IGNORE
        values, tokens = np.array(losses, np.float64)[kept], targets[kept]
        nats += values.sum()
        byte_nats += values[sizes[tokens] > 0].sum()
        counts += np.bincount(tokens, minlength=len(sizes))
        if advance:
            advance(done)
    nats, byte_nats = sum_over_ranks(np.array([nats, byte_nats]))
    counts = sum_over_ranks(counts)
    tokens, total_bytes = counts.sum(), float(counts @ sizes)
    seen = counts > 0
    per_token = -np.log(counts[seen] / tokens)
    unigram = float(counts[seen] @ per_token)
    unigram_bytes = float((counts[seen] * (sizes[seen] > 0)) @ per_token)
    return {
        "rows": len(held_out.rows),
        "available_rows": held_out.available,
        "tokens": int(tokens),
        "bytes": int(total_bytes),
        **_numbers(nats, byte_nats, tokens, total_bytes),
        "unigram": _numbers(unigram, unigram_bytes, tokens, total_bytes),
        "notes": held_out.notes,
    }


def _numbers(nats: float, byte_nats: float, tokens: float, size: float) -> dict[str, Any]:
    loss = nats / tokens
    return {
        "loss": float(loss),
        "perplexity": math.exp(min(loss, 700.0)),  # a larger one is no float
        "bits_per_byte": float(byte_nats / math.log(2) / size) if size else None,
    }


def _batches(rows: Sequence[Example], context: int, batch_size: int):
    """Yield the number of rows that end in a batch, its inputs and its targets, (B, T) int32."""
    windows: list[tuple[np.ndarray, np.ndarray, bool]] = []
    for row in rows:
        targets = np.where(row.trained, row.ids, IGNORE)[1:]
        begins = range(0, len(targets), context)
        windows += [
            (row.ids[begin : min(begin + context, len(targets))],
             targets[begin : begin + context], begin == begins[-1])
            for begin in begins
        ]  # fmt: skip
    inputs = [window[0] for window in windows]
    for numbers, ids in padded_batches(inputs, batch_size, context):
        targets = np.full(ids.shape, IGNORE, np.int32)
        for place, number in enumerate(numbers):
            targets[place, : len(windows[number][1])] = windows[number][1]
        yield sum(windows[number][2] for number in numbers), ids, targets
