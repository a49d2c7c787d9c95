"""Sums of losses, weights and gradients over the rows of one or several micro-batches."""

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

Arrays = dict[str, mx.array]
LossFunction = Callable[[nn.Module, Arrays], tuple[mx.array, mx.array]]
Sums = tuple[mx.array, mx.array, dict]  # of losses, weights and gradients
Gradients = Callable[[Arrays], tuple[tuple[mx.array, mx.array], dict]]


def gradient_function(model: nn.Module, loss_fn: LossFunction, compile: bool) -> Gradients:
    """Return the function of a batch that returns (sums of losses and weights), gradients."""
    function = nn.value_and_grad(model, partial(_checked, loss_fn, model))
    if not compile:
        return function
    # The random state is an input and an output: dropout would else repeat its first mask.
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
    """Return the sums over several micro-batches, the last of them maybe not evaluated yet."""
    (loss, weight), gradients = gradients_of(batches[0])
    for batch in batches[1:]:
        # Evaluated here: one lazy graph of all micro-batches would hold all their activations.
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
