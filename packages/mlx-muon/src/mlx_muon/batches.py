"""Stacks of matrices from several parameters, updated in batches of one shape and rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from mlx_muon.distributed import orthogonalize_shared
from mlx_muon.groups import Assignment
from mlx_muon.matrices import split_sizes
from mlx_muon.rules import MuonRule, Number
from mlx_muon.updates import equalize_variance, momentum_step, muon_direction, weight_step

# A batch saves calls, but costs copies and memory. On the CPU batches of large matrices are only
# useful if two streams share them.
CPU_BATCH_BYTES = 4 << 20
TWO_STREAMS_BATCH_BYTES = 32 << 20
GPU_BATCH_BYTES = 256 << 20


@dataclass
class Parameter:
    """One parameter during one update; gradient and weight are float32."""

    assignment: Assignment
    gradient: mx.array
    weight: mx.array
    state: dict


@dataclass
class Stack:
    """Matrices of one parameter; all arrays are float32, (matrices, rows, columns)."""

    rule: MuonRule
    gradient: mx.array
    weight: mx.array
    momentum: mx.array
    variance: mx.array | None


class Numbers(NamedTuple):
    """The hyperparameters of a rule at one step."""

    rate: Number
    weight_decay: Number
    momentum: Number
    beta2: Number


def batch_bytes(two_streams: bool | None) -> int:
    """Return the default size of a batch on this device, in bytes."""
    if mx.default_device().type != mx.cpu:
        return GPU_BATCH_BYTES
    return TWO_STREAMS_BATCH_BYTES if two_streams else CPU_BATCH_BYTES


def update_matrices(
    parameters: Sequence[Parameter],
    numbers_of: Callable[[MuonRule], Numbers],
    max_bytes: int,
    two_streams: bool | None = None,
    distributed: mx.distributed.Group | None = None,
) -> None:
    """Replace weight and state of each parameter under a `MuonRule`.

    Batches have at most `max_bytes`; a larger stack is a separate batch.
    """
    chosen = [each for each in parameters if isinstance(each.assignment.rule, MuonRule)]
    stacks = [_split(each) for each in chosen]
    batches = list(_batches([stack for each in stacks for stack in each], max_bytes))
    numbers = [numbers_of(batch[0].rule) for batch in batches]
    updates = [_update_momentum(*each) for each in zip(batches, numbers, strict=True)]
    functions = [
        partial(muon_direction, rule=batch[0].rule, two_streams=two_streams) for batch in batches
    ]
    if distributed is None or distributed.size() == 1:
        directions = [function(each) for function, each in zip(functions, updates, strict=True)]
    else:
        directions = orthogonalize_shared(updates, functions, distributed)
    for each in zip(batches, directions, numbers, strict=True):
        _update_weight(*each)
    for parameter, its_stacks in zip(chosen, stacks, strict=True):
        _join(parameter, its_stacks)


def _split(parameter: Parameter) -> list[Stack]:
    rule, matrices = parameter.assignment.rule, parameter.assignment.matrices
    assert isinstance(rule, MuonRule)
    assert matrices is not None
    momentum = parameter.state["momentum"].astype(mx.float32)
    arrays = (parameter.gradient, parameter.weight, momentum)
    variances = parameter.state.get("variance", [None] * len(matrices.shapes))
    stacks = zip(*map(matrices.split, arrays), variances, strict=True)
    return [Stack(rule, *each) for each in stacks]


def _join(parameter: Parameter, stacks: list[Stack]) -> None:
    matrices, shape = parameter.assignment.matrices, parameter.weight.shape
    assert matrices is not None
    parameter.weight = matrices.join([stack.weight for stack in stacks], shape)
    momentum = matrices.join([stack.momentum for stack in stacks], shape)
    parameter.state["momentum"] = momentum.astype(parameter.state["momentum"].dtype)
    if "variance" in parameter.state:
        parameter.state["variance"] = [stack.variance for stack in stacks]


def _batches(stacks: Sequence[Stack], max_bytes: int) -> Iterator[list[Stack]]:
    alike: dict[tuple, list[Stack]] = {}
    for stack in stacks:
        # These fields only determine how a parameter is divided, which is done by now.
        rule = replace(stack.rule, split=None, heads=None, transposed=None, kind=None)
        # The state may have different rates for equal rules.
        own = None if rule.learning_rate is None else id(stack.rule)
        alike.setdefault((rule, own, *stack.weight.shape[1:]), []).append(stack)
    for same in alike.values():
        batch, size = [], 0
        for stack in same:
            if batch and size + stack.weight.nbytes > max_bytes:
                yield batch
                batch, size = [], 0
            batch.append(stack)
            size += stack.weight.nbytes
        yield batch


def _update_momentum(batch: list[Stack], numbers: Numbers) -> mx.array:
    gradient = _concatenate([stack.gradient for stack in batch])
    momentum = _concatenate([stack.momentum for stack in batch])
    nesterov = batch[0].rule.nesterov
    update, momentum = momentum_step(gradient, momentum, numbers.momentum, nesterov)
    for stack, new in zip(batch, _per_stack(momentum, batch), strict=True):
        stack.momentum = new
    return update


def _update_weight(batch: list[Stack], update: mx.array, numbers: Numbers) -> None:
    rule = batch[0].rule
    if rule.variance != "none":
        variance = _concatenate([each.variance for each in batch if each.variance is not None])
        update, variance = equalize_variance(update, variance, numbers.beta2, rule)
        for stack, new in zip(batch, _per_stack(variance, batch), strict=True):
            stack.variance = new
    weight = _concatenate([stack.weight for stack in batch])
    weight = weight_step(weight, update, rule, numbers.rate, numbers.weight_decay)
    for stack, new in zip(batch, _per_stack(weight, batch), strict=True):
        stack.weight = new


def _concatenate(stacks: list[mx.array]) -> mx.array:
    return mx.concatenate(stacks) if len(stacks) > 1 else stacks[0]


def _per_stack(array: mx.array, batch: list[Stack]) -> list[mx.array]:
    return split_sizes(array, [len(stack.gradient) for stack in batch])
