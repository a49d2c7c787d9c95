"""Matrices of one shape and rule, from any number of parameters, updated at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from mlx_muon import muon_step
from mlx_muon.arrays import cut
from mlx_muon.muon_step import Number
from mlx_muon.rules import MuonRule
from mlx_muon.sharing import orthogonalize_shared

# Stacking saves calls, and costs copies and memory: on the CPU large matrices gain nothing by it,
# unless two streams share them.
CPU_BATCH_BYTES = 4 << 20
TWO_STREAMS_BATCH_BYTES = 32 << 20
GPU_BATCH_BYTES = 256 << 20


@dataclass
class Part:
    """A stack of matrices of one parameter, all arrays (matrices, rows, columns) in float32."""

    rule: MuonRule
    gradient: mx.array
    weight: mx.array
    momentum: mx.array
    variance: mx.array | None


class Numbers(NamedTuple):
    """What a rule's hyperparameters are at this step."""

    rate: Number
    weight_decay: Number
    momentum: Number
    beta2: Number


def batch_bytes(two_streams: bool | None) -> int:
    """Return how many bytes of matrices are best orthogonalized at once on this device."""
    if mx.default_device().type != mx.cpu:
        return GPU_BATCH_BYTES
    return TWO_STREAMS_BATCH_BYTES if two_streams else CPU_BATCH_BYTES


def update_parts(
    parts: Sequence[Part],
    numbers_of: Callable[[MuonRule], Numbers],
    max_bytes: int,
    two_streams: bool | None = None,
    distributed: mx.distributed.Group | None = None,
) -> None:
    """Renew weight, momentum and variance of each part, in batches of at most `max_bytes`."""
    batches = list(_batches(parts, max_bytes))
    numbers = [numbers_of(batch[0].rule) for batch in batches]
    updates = [_momentum_step(*each) for each in zip(batches, numbers, strict=True)]
    functions = [
        partial(muon_step.direction, rule=batch[0].rule, two_streams=two_streams)
        for batch in batches
    ]
    if distributed is None or distributed.size() == 1:
        directions = [function(each) for function, each in zip(functions, updates, strict=True)]
    else:
        directions = orthogonalize_shared(updates, functions, distributed)
    for each in zip(batches, directions, numbers, strict=True):
        _weight_step(*each)


def _batches(parts: Sequence[Part], max_bytes: int) -> Iterator[list[Part]]:
    """Group parts by rule and shape; a part larger than `max_bytes` is a batch of its own."""
    alike: dict[tuple, list[Part]] = {}
    for part in parts:
        # How a parameter is cut has been done by now.
        rule = replace(part.rule, split=None, heads=None, transposed=None, kind=None)
        # Rules that are equal may have rates of their own in the state.
        own = None if rule.learning_rate is None else id(part.rule)
        alike.setdefault((rule, own, *part.weight.shape[1:]), []).append(part)
    for same in alike.values():
        batch, size = [], 0
        for part in same:
            if batch and size + part.weight.nbytes > max_bytes:
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += part.weight.nbytes
        yield batch


def _momentum_step(batch: list[Part], numbers: Numbers) -> mx.array:
    gradient = _gather([part.gradient for part in batch])
    momentum = _gather([part.momentum for part in batch])
    nesterov = batch[0].rule.nesterov
    update, momentum = muon_step.momentum_step(gradient, momentum, numbers.momentum, nesterov)
    for part, new in zip(batch, _scatter(momentum, batch), strict=True):
        part.momentum = new
    return update


def _weight_step(batch: list[Part], update: mx.array, numbers: Numbers) -> None:
    rule = batch[0].rule
    if rule.variance != "none":
        variance = _gather([part.variance for part in batch if part.variance is not None])
        update, variance = muon_step.equalize_variance(update, variance, numbers.beta2, rule)
        for part, new in zip(batch, _scatter(variance, batch), strict=True):
            part.variance = new
    weight = _gather([part.weight for part in batch])
    weight = muon_step.weight_step(weight, update, rule, numbers.rate, numbers.weight_decay)
    for part, new in zip(batch, _scatter(weight, batch), strict=True):
        part.weight = new


def _gather(stacks: list[mx.array]) -> mx.array:
    return mx.concatenate(stacks) if len(stacks) > 1 else stacks[0]


def _scatter(stack: mx.array, batch: list[Part]) -> list[mx.array]:
    return cut(stack, [part.gradient.shape[0] for part in batch])
