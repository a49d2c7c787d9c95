"""Building blocks that are fast on MLX's CPU backend, and sums that stay accurate there.

Measured on 2 cores, float32, 6.3 million elements: `mx.exp` takes 73 ms, `mx.power(e, x)` 27 and,
compiled with vector instructions, 2.4. A row sum is 15 times slower than a product with ones.
Inside `mx.compile` one broadcasting operation makes the whole fused kernel scalar; `mx.contiguous`
prevents the fusion, and copies nothing if rows are contiguous.

MLX's CPU backend adds all elements into one float32 number: the sum of 2^25 ones is 2^24. In
`safe_sum` no chain of additions is longer than 128 per level, so its relative error is below 1e-5.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

# Lanes of the first step of a row maximum: columns are compared as whole vectors.
_LANES = 16
# Additions in a row before a partial sum, so that float32 keeps its digits.
_CHAIN = 128

fused: Callable[[Callable[..., mx.array]], Callable[..., mx.array]] = partial(
    mx.compile, shapeless=True
)
"""Decorator: compile element-wise operations on inputs of one shape to one kernel."""

# MLX annotates the decorated function as returning `object`.
custom: Any = mx.custom_function
"""Decorator: a function whose gradient is defined by its `vjp`."""

barrier = mx.contiguous
"""Fusion barrier: operations before and after it are compiled to separate kernels."""


def exp(x: mx.array) -> mx.array:
    """e^x for x up to 88.7 (`mx.exp`: 88); absolute error 4e-8 for x <= 0."""
    return mx.power(math.e, x)


@fused
def _fused_exp(x: mx.array) -> mx.array:
    return exp(x)


def fused_exp(x: mx.array) -> mx.array:
    """`exp` in a kernel of its own, also outside of `mx.compile`: 11 times faster there."""
    return barrier(_fused_exp(barrier(x)))


def row_sum(x: mx.array) -> mx.array:
    """(..., N) to (..., 1), by BLAS."""
    return barrier(barrier(x) @ mx.ones((x.shape[-1], 1), x.dtype))


def row_max(x: mx.array) -> mx.array:
    """(..., N) to (..., 1)."""
    size, rest = x.shape[-1], x.shape[-1] % _LANES
    if size <= _LANES:
        return barrier(x.max(-1, keepdims=True))
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim - 1)]
    lanes = mx.as_strided(x, (*x.shape[:-1], size // _LANES, _LANES), (*strides, _LANES, 1)).max(-2)
    if rest:
        lanes = mx.maximum(lanes, x[..., -_LANES:])
    return barrier(lanes.max(-1, keepdims=True))


def sum_to_shape(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Sum over the axes along which an array of `shape` was broadcast to `x`."""
    while x.ndim > len(shape):
        x = x.sum(0)
    axes = [axis for axis, size in enumerate(shape) if size == 1 and x.shape[axis] != 1]
    return x.sum(axes, keepdims=True) if axes else x


def in_float32(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Extend a function of float32 arrays to half precision: compute in float32, round once."""

    def widened(x: mx.array, *others: mx.array) -> mx.array:
        if x.dtype == mx.float32 and all(other.dtype == mx.float32 for other in others):
            return function(x, *others)
        wide = (each.astype(mx.float32) for each in (x, *others))
        return function(*wide).astype(x.dtype)

    return widened


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
    """Euclidean norm over all arrays of a tree, such as gradients, a float32 scalar."""
    leaves: list[mx.array] = [leaf for _, leaf in tree_flatten(tree)]  # type: ignore
    squares = [safe_sum(mx.square(leaf.astype(mx.float32))) for leaf in leaves]
    return mx.sqrt(safe_sum(mx.stack(squares))) if squares else mx.array(0.0)
