"""The optimizer's state: a tree like the model's, for each parameter a dict of arrays.

`momentum` (and `variance`, a list) under a MuonRule; `m`, `v` and `count` under an AdamWRule;
`mantissa` where bfloat16 weights keep theirs.
"""

import re
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from mlx_muon.arrays import flat
from mlx_muon.matching import Assignment
from mlx_muon.muon_step import variance_shape
from mlx_muon.rules import AdamWRule

NAME = re.compile(r"(.+)\.(momentum|variance\.\d+|m|v|count|mantissa)")

ByPath = dict[str, dict[str, mx.array]]


def new_state(
    assignment: Assignment, parameter: mx.array, dtype: mx.Dtype, keep_mantissa: bool
) -> dict[str, mx.array]:
    """Return the arrays by name that a parameter starts with, all 0."""
    shape, rule, blocks = parameter.shape, assignment.rule, assignment.blocks
    state: dict[str, mx.array] = {}
    if isinstance(rule, AdamWRule):
        state["m"], state["v"] = mx.zeros(shape, dtype), mx.zeros(shape, dtype)
        state["count"] = mx.array(0, mx.uint32)
    else:
        assert blocks is not None
        state["momentum"] = mx.zeros(shape, dtype)
        for index, each in enumerate(blocks.shapes if rule.variance != "none" else ()):
            state[f"variance.{index}"] = mx.zeros(variance_shape(rule, each))
    if keep_mantissa and parameter.dtype == mx.bfloat16:
        state["mantissa"] = mx.zeros(shape, mx.uint16)
    return state


def by_path(tree: object) -> ByPath:
    """Return the arrays of a state by path of the parameter, then by name.

    Raises `ValueError` where the tree holds what is not of this optimizer.
    """
    held: ByPath = {}
    for name, array in flat(tree).items():
        found = NAME.fullmatch(name)
        if found is None:
            raise ValueError(
                f"the state has {name!r}, which is not of this optimizer; take over that of "
                "another one by load_mlx_state"
            )
        held.setdefault(found[1], {})[found[2]] = array
    return held


def tree_of(held: ByPath) -> Any:
    """Return the tree of which `by_path` gives `held`."""
    arrays = [(f"{path}.{name}", array) for path in held for name, array in held[path].items()]
    return tree_unflatten(arrays) if arrays else {}


def check_fit(
    path: str,
    wanted: dict[str, mx.array],
    held: dict[str, mx.array],
    mantissa_shape: tuple[int, ...] | None,
) -> None:
    """Refuse loaded state that another rule, or another shape of the parameter, has made.

    A mantissa of `mantissa_shape` fits also where the dtype of the parameter has changed.
    """
    if mantissa_shape is not None:
        wanted = {"mantissa": mx.zeros(mantissa_shape, mx.uint16)} | wanted
    for name, array in held.items():
        if name in wanted and array.shape == wanted[name].shape:
            continue
        needed = f"needs shape {wanted[name].shape}" if name in wanted else "has no such state"
        raise ValueError(
            f"the optimizer's state does not fit: {name} of {path} has shape {array.shape}, and "
            f"its rule {needed}; load the state of this model and these groups, or none"
        )


def at_path(tree: Any, path: str) -> dict:
    """Return the state of one parameter; lists end at the last layer that has any."""
    for part in path.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree
