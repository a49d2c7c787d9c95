"""Import the state of `mlx.optimizers.Muon`, or of a `MultiOptimizer` of it and AdamW."""

import mlx.core as mx
from mlx.utils import tree_unflatten

from mlx_muon.optimizer import Muon
from mlx_muon.rules import MuonRule
from mlx_muon.structure import flatten, trainable_floats


def load_mlx_state(optimizer: Muon, state: dict, parameters: dict) -> list[str]:
    """Import step, momenta and moments of MLX's optimizers; return the paths that start fresh.

    `state` is that of `mlx.optimizers.Muon`, `Adam` or `AdamW`, or of a `MultiOptimizer` of these;
    `parameters` is the model or its trainable parameters. A parameter starts fresh if `state` does
    not have it, or if it gets AdamW here and had MLX's Muon, which keeps a momentum for every
    parameter. MLX's momentum includes weight decay; that part decays within about 20 steps.

    Raises `ValueError`, with nothing imported, for an array that does not have the parameter's
    shape.
    """
    optimizer.init(parameters)
    children = state.get("states", [state])
    held = {
        path: (array, child["step"]) for child in children for path, array in flatten(child).items()
    }
    ours = flatten(optimizer.state["parameters"])
    fresh = []
    for path, parameter in trainable_floats(parameters).items():
        found = {name: held[f"{path}.{name}"] for name in "mv" if f"{path}.{name}" in held}
        for name, (array, _) in found.items():
            if array.shape != parameter.shape:
                raise ValueError(
                    f"{path}: the state to load has shape {array.shape} in {name!r}, but the "
                    f"parameter has {parameter.shape}"
                )
        is_muon = isinstance(optimizer.assignment(path, parameter).rule, MuonRule)
        if list(found) != (["v"] if is_muon else ["m", "v"]):
            fresh.append(path)
            continue
        array, step = found["v"]
        ours[f"{path}.momentum" if is_muon else f"{path}.v"] = array.astype(optimizer.state_dtype)
        if not is_muon:
            ours[f"{path}.m"] = found["m"][0].astype(optimizer.state_dtype)
            ours[f"{path}.count"] = mx.array(step, mx.uint32)
    optimizer.state["parameters"] = tree_unflatten(list(ours.items()))
    optimizer.state["step"] = mx.array(children[0]["step"], mx.uint64)
    return fresh
