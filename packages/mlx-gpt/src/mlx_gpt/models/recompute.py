"""Gradient checkpointing: what is inside a block is computed again in the backward pass, not kept.

`mlx.nn.utils.checkpoint` does the same, but leaves the order of the backward pass to MLX, which
goes through all blocks before it computes the gradients of weights, and keeps for them what it has
computed again. Here a block's gradients are all computed before the block below it is begun.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten


def recomputed(module: nn.Module) -> Callable[..., mx.array]:
    """Return a function that calls `module` and remembers no more than its inputs.

    Inputs may be nested in tuples and lists; gradients go to the trainable parameters and to all
    inputs of a floating type. The module returns one array.
    """

    def call(*inputs: object) -> mx.array:
        parameters = module.trainable_parameters()
        leaves: list[tuple[str, Any]] = list(tree_flatten([parameters, list(inputs)]))  # type: ignore[arg-type]
        places = [i for i, (_, leaf) in enumerate(leaves) if _is_floating(leaf)]

        def forward(*arrays: mx.array) -> mx.array:
            filled = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                filled[place] = (leaves[place][0], array)
            weights, given = tree_unflatten(filled)
            module.update(weights)
            try:
                return module(*given)
            finally:
                module.update(parameters)

        function = mx.custom_function(forward)

        @function.vjp
        def backward(primals, cotangent, output):
            # Not before the blocks above are done; and all of it before the blocks below.
            primals = mx.depends(list(primals), [cotangent])
            _, gradients = mx.vjp(forward, primals, [cotangent])
            return tuple(mx.depends(gradients, gradients))

        return function(*(leaves[place][1] for place in places))  # type: ignore[return-value]

    return call


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)
