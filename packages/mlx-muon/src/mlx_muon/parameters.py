"""A parameter in one update, and the stacks of matrices it is cut into."""

from dataclasses import dataclass

import mlx.core as mx

from mlx_muon.batches import Part
from mlx_muon.matching import Assignment
from mlx_muon.rules import MuonRule


@dataclass
class Parameter:
    """One parameter in one update; gradient and weight are float32."""

    assignment: Assignment
    gradient: mx.array
    weight: mx.array
    state: dict


def parts_of(parameter: Parameter) -> list[Part]:
    """Cut a parameter, with its gradient and state, into stacks of matrices."""
    rule, blocks = parameter.assignment.rule, parameter.assignment.blocks
    assert isinstance(rule, MuonRule)
    assert blocks is not None
    momentum = parameter.state["momentum"].astype(mx.float32)
    arrays = (parameter.gradient, parameter.weight, momentum)
    variances = parameter.state.get("variance", [None] * len(blocks.shapes))
    stacks = zip(*map(blocks.cut, arrays), variances, strict=True)
    return [Part(rule, *each) for each in stacks]


def put_back(parameter: Parameter, parts: list[Part]) -> None:
    """Give the parameter the weight and state of its stacks."""
    blocks, shape = parameter.assignment.blocks, parameter.weight.shape
    assert blocks is not None
    parameter.weight = blocks.join([part.weight for part in parts], shape)
    momentum = blocks.join([part.momentum for part in parts], shape)
    parameter.state["momentum"] = momentum.astype(parameter.state["momentum"].dtype)
    if "variance" in parameter.state:
        parameter.state["variance"] = [part.variance for part in parts]
