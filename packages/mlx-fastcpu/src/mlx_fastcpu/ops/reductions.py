"""Sums that stay right for large arrays.

MLX's CPU backend adds all elements into one float32 number: the sum of 2^25 ones is 2^24. Here no
chain of additions is longer than 128 a level, so the relative error stays below 1e-5.
"""

import mlx.core as mx
from mlx.utils import tree_flatten

_CHAIN = 128


def safe_sum(x: mx.array) -> mx.array:
    """Sum of all elements, a float32 scalar."""
    x = x.reshape(-1).astype(mx.float32)
    while x.size > _CHAIN:
        width = x.size // _CHAIN
        whole, rest = x[: _CHAIN * width], x[_CHAIN * width :]
        folded = whole.reshape(_CHAIN, width).sum(0)
        x = mx.concatenate([folded, rest]) if rest.size else folded
    # The CPU backend of MLX 0.32 may take minutes to sum an empty array.
    return x.sum() if x.size else mx.array(0.0)


def safe_mean(x: mx.array) -> mx.array:
    """Mean of all elements, a float32 scalar; NaN for an empty array."""
    return safe_sum(x) / x.size if x.size else mx.array(float("nan"))


def global_norm(tree: object) -> mx.array:
    """Euclidean norm over all arrays of a tree, as of gradients, a float32 scalar."""
    leaves: list[mx.array] = [leaf for _, leaf in tree_flatten(tree)]  # type: ignore
    squares = [safe_sum(mx.square(leaf.astype(mx.float32))) for leaf in leaves]
    return mx.sqrt(safe_sum(mx.stack(squares))) if squares else mx.array(0.0)
