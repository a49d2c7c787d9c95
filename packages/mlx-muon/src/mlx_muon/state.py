"""The optimizer's state: a tree like the model's, with a dict of arrays for each parameter.

`momentum` (and `variance`, a list) under a MuonRule; `m`, `v` and `count` under an AdamWRule;
`mantissa` for bfloat16 weights with `keep_mantissa`. Learning rates that are numbers are stored
next to this tree.
"""

import re
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from mlx_muon.groups import Assignment, Group
from mlx_muon.rules import AdamWRule, MuonRule
from mlx_muon.structure import flatten
from mlx_muon.updates import variance_shape

NAME = re.compile(r"(.+)\.(momentum|variance\.\d+|m|v|count|mantissa)")

ByPath = dict[str, dict[str, mx.array]]


def new_state(
    assignment: Assignment, parameter: mx.array, dtype: mx.Dtype, keep_mantissa: bool
) -> dict[str, mx.array]:
    """Return the initial arrays of a parameter by name, all 0."""
    shape, rule, matrices = parameter.shape, assignment.rule, assignment.matrices
    state: dict[str, mx.array] = {}
    if isinstance(rule, AdamWRule):
        state["m"], state["v"] = mx.zeros(shape, dtype), mx.zeros(shape, dtype)
        state["count"] = mx.array(0, mx.uint32)
    else:
        assert matrices is not None
        state["momentum"] = mx.zeros(shape, dtype)
        for index, each in enumerate(matrices.shapes if rule.variance != "none" else ()):
            state[f"variance.{index}"] = mx.zeros(variance_shape(rule, each))
    if keep_mantissa and parameter.dtype == mx.bfloat16:
        state["mantissa"] = mx.zeros(shape, mx.uint16)
    return state


def by_path(tree: object) -> ByPath:
    """Return the arrays of a state by path of the parameter, then by name.

    Raises `ValueError` for an array that this optimizer does not have.
    """
    held: ByPath = {}
    for name, array in flatten(tree).items():
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"the state has {name!r}, which this optimizer does not use; import the state of "
                "another optimizer by load_mlx_state"
            )
        held.setdefault(match[1], {})[match[2]] = array
    return held


def to_tree(held: ByPath) -> Any:
    """Invert `by_path`."""
    arrays = [(f"{path}.{name}", array) for path in held for name, array in held[path].items()]
    return tree_unflatten(arrays) if arrays else {}


def check_fit(
    path: str,
    wanted: dict[str, mx.array],
    held: dict[str, mx.array],
    mantissa_shape: tuple[int, ...] | None,
) -> None:
    """Raise `ValueError` if loaded state is from another rule or shape of the parameter.

    A mantissa of `mantissa_shape` is accepted for any current dtype of the parameter.
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
    """Return the state of one parameter."""
    for part in path.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def name_rates(
    muon: MuonRule, adamw: AdamWRule, groups: Sequence[Group]
) -> dict[int, tuple[str, float]]:
    """Return (name, rate) by id of each rule with a `learning_rate` that is a number.

    Names are "muon", "adamw" and those of the groups, with "_" for other characters than letters
    and digits.
    """
    named: dict[int, tuple[str, float]] = {}
    taken: set[str] = set()
    rules = [("muon", muon), ("adamw", adamw), *((group.name, group.rule) for group in groups)]
    for name, rule in rules:
        rate = rule.learning_rate
        if rate is None or callable(rate) or id(rule) in named:
            continue
        name = re.sub(r"\W+", "_", name).strip("_") or "group"
        while name in taken or name.isdigit():  # a number would be an index in a tree
            name += "_"
        taken.add(name)
        named[id(rule)] = name, rate
    return named


def merge_rates(
    named: dict[int, tuple[str, float]], held: dict[str, mx.array]
) -> dict[str, mx.array]:
    """Return the rates by name: those of the state `held`, else those of the rules.

    Raises `ValueError` for a rate in `held` that no rule has.
    """
    initial = {name: mx.array(rate, mx.float32) for name, rate in named.values()}
    if unknown := sorted(held.keys() - initial.keys()):
        raise ValueError(
            f"the optimizer's state does not fit: it has a learning rate for {unknown[0]!r} "
            f"({float(held[unknown[0]]):g}), which no rule here has; make the optimizer with the "
            "same groups, or remove the rate from the state"
        )
    return initial | held
