"""Checks of shapes and dtypes, and the choice of the elements that count."""

import math

import mlx.core as mx


def check_same_shape(
    name: str, values: mx.array, targets: mx.array, targets_name: str = "targets"
) -> None:
    """Raise ValueError unless both have one shape."""
    if values.shape != targets.shape:
        raise ValueError(
            f"{name} and {targets_name} must have the same shape, "
            f"got {values.shape} and {targets.shape}"
        )


def check_elements(outputs: mx.array, targets: mx.array) -> None:
    """Raise ValueError unless both are (B,), or both (B, M)."""
    check_same_shape("outputs", outputs, targets)
    if outputs.ndim not in (1, 2):
        raise ValueError(f"outputs must be (B,) or (B, M), got {outputs.shape}")


def check_classes(name: str, outputs: mx.array, targets: mx.array, columns: str, hint: str) -> None:
    """Raise unless outputs are (B, `columns`) and targets (B,) integers."""
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"{name} takes (B, {columns}) outputs and (B,) targets, got {outputs.shape} and "
            f"{targets.shape}{hint}"
        )
    if not mx.issubdtype(targets.dtype, mx.integer):
        raise TypeError(f"targets must be integer class numbers, got {targets.dtype}")


def check_columns(name: str, values: mx.array, columns: int, letter: str) -> None:
    """Raise ValueError unless a weight for each output column has that shape."""
    if values.shape != (columns,):
        raise ValueError(f"{name} must have shape ({letter},) = ({columns},), got {values.shape}")


def kept_elements(
    targets: mx.array, sample_weight: mx.array | None, ignore_index: float | None
) -> mx.array | None:
    """Return which elements of (B,) or (B, M) targets count, or None when all do."""
    kept = None
    if ignore_index is not None:
        if math.isnan(ignore_index):
            kept = ~mx.isnan(targets)
        else:  # unsigned or half-precision targets would wrap or round the number
            integer = mx.issubdtype(targets.dtype, mx.integer)
            kept = targets.astype(mx.int32 if integer else mx.float32) != ignore_index
    if sample_weight is not None:
        check_weight(sample_weight, len(targets))
        weighted = (sample_weight != 0).reshape(-1, *[1] * (targets.ndim - 1))
        kept = mx.broadcast_to(weighted, targets.shape) if kept is None else kept & weighted
    return kept


def check_weight(sample_weight: mx.array, rows: int) -> None:
    """Raise ValueError unless there is one weight a row."""
    if sample_weight.shape != (rows,):
        raise ValueError(f"sample_weight must be (B,) = ({rows},), got {sample_weight.shape}")


def blank(values: mx.array, kept: mx.array | None) -> mx.array:
    """Put 0 where nothing is kept: then no NaN there reaches a loss or a gradient."""
    if kept is None:
        return values
    kept = kept.reshape(*kept.shape, *[1] * (values.ndim - kept.ndim))
    return mx.where(kept, values, mx.zeros((), values.dtype))


def expose_wrong_classes(losses: mx.array, targets: mx.array, classes: int) -> mx.array:
    """Make the losses of targets outside 0..K-1 NaN or infinite.

    Not by `where(.., nan)`: compiled CPU kernels of MLX 0.30 and 0.31 do not support NaN constants.
    """
    return losses / ((targets >= 0) & (targets < classes)).astype(mx.float32)
