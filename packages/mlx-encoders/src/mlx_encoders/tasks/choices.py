"""Multiple choice: several texts for each example, encoded as rows of one batch."""

from typing import Any

import mlx.core as mx
import numpy as np

# Arguments whose first two axes are examples and choices.
_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


def merge_choices(**arguments: Any) -> tuple[dict[str, Any], int]:
    """Return the arguments with (B, choices, ...) merged to (B * choices, ...), and `choices`.

    Raises `ValueError` for ids without an axis of choices.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    first = given.get("input_ids", given.get("inputs_embeds"))
    if first is None or first.ndim < 3:
        shape = None if first is None else first.shape
        raise ValueError(f"input_ids must be (batch, choices, length), got {shape}")
    merged = {
        name: value.reshape(-1, *value.shape[2:]) if name in _PER_TOKEN else value
        for name, value in given.items()
    }
    return merged, first.shape[1]


def first_valid(hidden: mx.array, attention_mask: mx.array | np.ndarray | None) -> mx.array:
    """Return the hidden state (B, D) of each row's first token that is not padding."""
    if attention_mask is None:
        return hidden[:, 0]
    first = (mx.array(attention_mask) != 0).astype(mx.int32).argmax(axis=1)
    return mx.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]


def mean_of_valid(hidden: mx.array, attention_mask: mx.array | np.ndarray | None) -> mx.array:
    """Return the mean (B, D) of the hidden states that are not padding; 0 for an empty row."""
    if attention_mask is None:
        return hidden.mean(axis=1)
    weights = (mx.array(attention_mask) != 0).astype(hidden.dtype)[..., None]
    return (hidden * weights).sum(axis=1) / mx.maximum(weights.sum(axis=1), 1)
