"""Gradients as sums over the rows of micro-batches, and their norm, accurate for large arrays."""

import math
from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

Arrays = dict[str, mx.array]
LossFunction = Callable[[nn.Module, Arrays], tuple[mx.array, mx.array]]
Sums = tuple[mx.array, mx.array, dict]  # of losses, weights and gradients
Gradients = Callable[[Arrays], tuple[tuple[mx.array, mx.array], dict]]

# The CPU backend of MLX adds all elements of a float32 array into one float32 accumulator: the
# squared norm of a 30522 x 768 array of 0.01 becomes 2048 instead of 2344, and clipping by it has
# the same error. Summing one axis at a time keeps every chain of additions short. Arrays with an
# axis longer than this are first folded into a square.
_LONGEST_AXIS = 8192


def gradient_function(model: nn.Module, loss_fn: LossFunction, compile: bool) -> Gradients:
    """Return the function of a batch that returns (sums of losses and weights), gradients."""
    function = nn.value_and_grad(model, partial(_checked, loss_fn, model))
    if not compile:
        return function
    # The random state is an input and an output; otherwise dropout would repeat its first mask.
    state = [model.state, mx.random.state]
    return mx.compile(function, inputs=state, outputs=state)


def _checked(loss_fn: LossFunction, model: nn.Module, batch: Arrays) -> tuple[mx.array, mx.array]:
    sums = loss_fn(model, batch)
    if not isinstance(sums, tuple) or len(sums) != 2:
        raise TypeError(
            f"loss_fn must return (sum of losses, sum of weights), got {type(sums).__name__}"
        )
    loss, weight = (mx.array(each).astype(mx.float32) for each in sums)
    if loss.ndim or weight.ndim:
        raise ValueError(
            "loss_fn must return two scalars, (sum of losses, sum of weights), got shapes "
            f"{loss.shape} and {weight.shape}"
        )
    return loss, weight


def accumulate(gradients_of: Gradients, batches: list[Arrays]) -> Sums:
    """Return the sums over several micro-batches, which may not be evaluated yet."""
    (loss, weight), gradients = gradients_of(batches[0])
    for batch in batches[1:]:
        # Evaluated here: a lazy graph of all micro-batches would keep all their activations.
        mx.eval(loss, weight, gradients)
        more, more_gradients = gradients_of(batch)
        loss, weight, gradients = total([(loss, weight, gradients), (*more, more_gradients)])
    return loss, weight, gradients


def total(sums: list[Sums]) -> Sums:
    """Return the sum of several sums."""
    (loss, weight, gradients), *others = sums
    for more_loss, more_weight, more in others:
        loss, weight = loss + more_loss, weight + more_weight
        gradients = tree_map(_add, gradients, more)
    return loss, weight, gradients


def _add(total: mx.array, gradient: mx.array) -> mx.array:
    return total.astype(mx.float32) + gradient.astype(mx.float32)


def safe_sum(x: mx.array) -> mx.array:
    """Return the sum of all elements as a float32 scalar, by partial sums on every backend.

    For n elements the longest chain of additions is about sqrt(n), or the longest axis if no axis
    exceeds 8192. In that case a transposed view, such as most matrix gradients, is not copied.
    """
    if x.size == 0:
        return mx.array(0.0)  # the CPU backend of MLX 0.32 may take minutes to sum an empty array
    x = x.astype(mx.float32)
    if x.ndim >= 2 and max(x.shape) <= _LONGEST_AXIS:
        while x.ndim:
            x = x.sum(0)
        return x
    x = x.reshape(-1)
    width = math.isqrt(x.size)
    total = x[: width * width].reshape(width, width).sum(0).sum()
    rest = x[width * width :]  # at most 2 * width elements
    return total + rest.sum() if rest.size else total


def global_norm(tree: object) -> mx.array:
    """Return the Euclidean norm over all arrays of a tree (nested dicts and lists), in float32.

    Accurate for entries of any size: in float32 the square of 2e19 is infinite, that of 1e-23 is 0.
    """
    leaves = [leaf.astype(mx.float32) for _, leaf in tree_flatten(tree)]  # type: ignore[arg-type]
    leaves = [leaf for leaf in leaves if leaf.size]
    if not leaves:
        return mx.array(0.0)
    unit = _power_of_two(mx.stack([_largest(leaf) for leaf in leaves]).max())
    squares = [safe_sum(mx.square(leaf / unit)) for leaf in leaves]
    return mx.sqrt(mx.stack(squares).sum()) * unit


def _largest(x: mx.array) -> mx.array:
    # On the CPU three times as fast as mx.abs(x).max().
    return mx.maximum(x.max(0).max(), -x.min(0).min()) if x.ndim else mx.abs(x)


def _power_of_two(x: mx.array) -> mx.array:
    """Return the power of 2 below `x`, to divide by without rounding; 1 for 0 and infinity."""
    power = (x.view(mx.uint32) & 0x7F800000).view(mx.float32)
    return mx.where((power > 0) & mx.isfinite(power), power, 1.0)
