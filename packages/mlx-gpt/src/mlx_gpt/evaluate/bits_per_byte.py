"""Bits per byte: a loss that does not depend on the tokenizer, so that models can be compared.

The definition is nanochat's: nats of all targets that stand for bytes, over ln 2 times these bytes.
Special tokens stand for none and are left out, as are targets of -1.
"""

import math
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.evaluate.ranks import sum_over_ranks
from mlx_gpt.models.formats import Decoder
from mlx_gpt.training.losses import IGNORE, token_losses


def bits_per_byte(model: Decoder, batches: Iterable[Any], token_bytes: np.ndarray) -> float:
    """Return the bits that `model` needs for each byte of the targets.

    A batch is a pair (inputs, targets), or has these as attributes, as those of mlx-shards have:
    (B, T) integers, MLX or NumPy, negative targets ignored. `token_bytes` (vocab_size,) is each
    token's length in bytes, 0 for special tokens. Under `mlx.launch` every rank gives its own
    batches and gets the result for all. Raises `ValueError` where no target stands for a byte.
    """
    nats, count = 0.0, 0
    for batch in batches:
        inputs, targets = batch if isinstance(batch, tuple) else (batch.inputs, batch.targets)
        sizes = _target_sizes(np.array(targets), token_bytes)
        losses = token_losses(
            model.hidden_states(mx.array(inputs)),
            model.head_weight,
            mx.maximum(mx.array(targets), IGNORE),
            model.logit_cap,
        )
        nats += np.array(losses)[sizes > 0].sum(dtype=np.float64)
        count += int(sizes.sum())
    nats, count = sum_over_ranks(np.array([nats, count]))
    if not count:
        raise ValueError(
            "bits per byte: no target stands for a byte; every target is special or ignored, "
            "or there was no batch"
        )
    return float(nats / (math.log(2) * count))


def _target_sizes(targets: np.ndarray, token_bytes: np.ndarray) -> np.ndarray:
    """Return the bytes (B, T) that each target stands for, 0 where it does not count."""
    if targets.size and targets.max() >= len(token_bytes):
        raise ValueError(
            f"bits per byte: target {targets.max()} is outside of token_bytes, which has "
            f"{len(token_bytes)} entries; both must come from one tokenizer"
        )
    return np.where(targets >= 0, np.asarray(token_bytes)[np.maximum(targets, 0)], 0)
