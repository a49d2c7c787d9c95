"""Small helpers for arrays and trees of them."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten


def flat(tree: object) -> dict[str, mx.array]:
    """Return the arrays of a tree by path."""
    return dict(tree_flatten(tree))  # type: ignore[arg-type]


def scalar(value: float | mx.array) -> mx.array:
    """Return a number which `mx.compile` does not write into its kernels.

    Every other number would be another kernel, and the CPU's compiler takes half a second for each.
    """
    return mx.contiguous(mx.array(value, mx.float32))


def cut(x: mx.array, sizes: Sequence[int], axis: int = 0) -> list[mx.array]:
    """Return pieces of `x` with these sizes along `axis`."""
    ends = [sum(sizes[:end]) for end in range(1, len(sizes))]
    return mx.split(x, ends, axis) if ends else [x]  # type: ignore[return-value]


def trained(parameters: dict) -> dict[str, mx.array]:
    """Return the trainable parameters of a model, or all of a tree, that are floating point.

    Tables of indices and masks that a model keeps among its parameters are left alone.
    """
    if isinstance(parameters, nn.Module):
        parameters = parameters.trainable_parameters()
    arrays = flat(parameters).items()
    return {path: each for path, each in arrays if mx.issubdtype(each.dtype, mx.floating)}
