"""Check the inputs of an encoder once, at its edge."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

Array = mx.array | np.ndarray


@dataclass(frozen=True)
class Inputs:
    """Ids (B, L) or embeddings (B, L, hidden_size), and what belongs to each token, (B, L)."""

    ids: mx.array | None
    embeds: mx.array | None
    valid: mx.array | None
    positions: mx.array | None
    segments: mx.array | None

    @property
    def length(self) -> int:
        """L."""
        given = self.embeds if self.ids is None else self.ids
        assert given is not None
        return given.shape[1]


def check_inputs(
    input_ids: Array | None,
    attention_mask: Array | None = None,
    position_ids: Array | None = None,
    inputs_embeds: mx.array | None = None,
    segment_ids: Array | None = None,
) -> Inputs:
    """Return the inputs as `mx.array`s, with a boolean mask; wrong ones are an error.

    Raises `ValueError` for wrong shapes and for a mask of other values than 0 and 1, and
    `TypeError` for ids that are not integers. Values of a floating-point mask can be checked only
    outside of `mx.compile`.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"give input_ids or inputs_embeds, one of them; got {given}")
    ids = embeds = None
    if input_ids is not None:
        ids = _integers("input_ids", input_ids)
        if ids.ndim != 2 or 0 in ids.shape:
            raise ValueError(f"input_ids must be (batch, length), both not 0; got {ids.shape}")
        shape = ids.shape
    else:
        assert inputs_embeds is not None
        embeds = to_mlx(inputs_embeds)
        if embeds.ndim != 3 or 0 in embeds.shape:
            raise ValueError(
                f"inputs_embeds must be (batch, length, hidden_size), none 0; got {embeds.shape}"
            )
        shape = embeds.shape[:2]
    positions = None if position_ids is None else _integers("position_ids", position_ids)
    if positions is not None and positions.shape == shape[1:]:
        positions = mx.broadcast_to(positions[None], shape)
    segments = None if segment_ids is None else _integers("segment_ids", segment_ids)
    valid = None if attention_mask is None else _boolean(attention_mask)
    for name, array in (
        ("attention_mask", valid),
        ("position_ids", positions),
        ("segment_ids", segments),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} must have the shape {shape} of the ids, got {array.shape}")
    return Inputs(ids, embeds, valid, positions, segments)


def to_mlx(values: Array) -> mx.array:
    """Return an array of MLX, of the same dtype."""
    # MLX refuses views with negative strides, such as a reversed mask.
    return mx.array(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values


def _integers(name: str, values: Array) -> mx.array:
    array = to_mlx(values)
    if not mx.issubdtype(array.dtype, mx.integer):
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return array


def _boolean(mask: Array) -> mx.array:
    array = to_mlx(mask)
    if array.dtype == mx.bool_:
        return array
    if mx.issubdtype(array.dtype, mx.floating):
        # Additive masks, 0 for tokens and -1e9 for padding, would be read the wrong way round.
        _check_zeros_and_ones(array)
    return array != 0


def _check_zeros_and_ones(mask: mx.array) -> None:
    try:
        right = bool(((mask == 0) | (mask == 1)).all())
    except ValueError:  # a tracer of mx.compile has no values
        return
    if not right:
        raise ValueError(
            "attention_mask must be 1 for tokens and 0 for padding; got other values, as of an "
            "additive mask: give `mask == 0` instead"
        )
