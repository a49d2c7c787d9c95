"""Multiple choice: several texts for each example, encoded as rows of one batch."""

from typing import Any

import mlx.core as mx

from mlx_encoders.inputs import Array, to_mlx


def merge_choices(**arguments: Any) -> tuple[dict[str, Any], int]:
    """Return the arguments with (B, choices, ...) merged to (B * choices, ...), and `choices`.

    `position_ids` may be (L,), for all. Raises `ValueError` for arrays without an axis of choices.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    name = "inputs_embeds" if "inputs_embeds" in given else "input_ids"
    ndim = 4 if name == "inputs_embeds" else 3
    first = given.get(name)
    if first is None or first.ndim != ndim:
        shape = None if first is None else first.shape
        axes = "length, hidden_size" if ndim == 4 else "length"
        raise ValueError(f"{name} must be (batch, choices, {axes}), got {shape}")
    merged = {}
    for name, value in given.items():
        if name == "position_ids" and value.ndim == 1:
            merged[name] = value
        elif value.shape[:3] != first.shape[:3]:
            raise ValueError(f"{name} must have the shape {first.shape[:3]}, got {value.shape}")
        else:
            merged[name] = value.reshape(-1, *value.shape[2:])
    return merged, first.shape[1]


def refuse_segments(model: object, options: dict[str, Any]) -> None:
    """Raise `ValueError` for packed rows, of which a classifier of rows would see the first."""
    if options.get("segment_ids") is not None:
        raise ValueError(
            f"{type(model).__name__} has one output for each row, so rows cannot be packed with "
            f"segment_ids; pool the encoder's states with pool_segments, then apply the head"
        )


def first_valid(hidden: mx.array, attention_mask: Array | None) -> mx.array:
    """Return the hidden state (B, D) of each row's first token that is not padding."""
    if attention_mask is None:
        return hidden[:, 0]
    first = (to_mlx(attention_mask) != 0).astype(mx.int32).argmax(axis=1)
    return mx.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]


def mean_of_valid(hidden: mx.array, attention_mask: Array | None) -> mx.array:
    """Return the mean (B, D) of the hidden states that are not padding; 0 for an empty row."""
    values = hidden.astype(mx.float32)  # a float16 sum of 8192 tokens overflows at a mean of 8
    if attention_mask is None:
        return values.mean(axis=1).astype(hidden.dtype)
    weights = (to_mlx(attention_mask) != 0).astype(mx.float32)[..., None]
    mean = (values * weights).sum(axis=1) / mx.maximum(weights.sum(axis=1), 1)
    return mean.astype(hidden.dtype)
