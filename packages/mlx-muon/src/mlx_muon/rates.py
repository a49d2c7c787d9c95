"""Learning rates that are numbers live in the optimizer's state, under the names given here."""

import re
from collections.abc import Sequence

import mlx.core as mx

from mlx_muon.matching import Group
from mlx_muon.rules import AdamWRule, MuonRule


def named_rates(
    muon: MuonRule, adamw: AdamWRule, groups: Sequence[Group]
) -> dict[int, tuple[str, float]]:
    """Return (name, rate) by id of each rule with a number of its own.

    Names are "muon", "adamw" and those of the groups, with "_" for what is no letter or digit.
    """
    found: dict[int, tuple[str, float]] = {}
    taken: set[str] = set()
    named = [("muon", muon), ("adamw", adamw), *((group.name, group.rule) for group in groups)]
    for name, rule in named:
        rate = rule.learning_rate
        if rate is None or callable(rate) or id(rule) in found:
            continue
        name = re.sub(r"\W+", "_", name).strip("_") or "group"
        while name in taken or name.isdigit():  # a number would be an index in a tree
            name += "_"
        taken.add(name)
        found[id(rule)] = name, rate
    return found


def renewed_rates(
    rules: dict[int, tuple[str, float]], held: dict[str, mx.array]
) -> dict[str, mx.array]:
    """Return the rates by name: those of a state, and the rules' where that has none.

    Raises `ValueError` for a rate that no rule has.
    """
    fresh = {name: mx.array(rate, mx.float32) for name, rate in rules.values()}
    if foreign := sorted(held.keys() - fresh.keys()):
        raise ValueError(
            f"the optimizer's state does not fit: it has a rate of its own for {foreign[0]!r} "
            f"({float(held[foreign[0]]):g}), and no rule here has that; make the optimizer with "
            "the same groups, or leave the rate out of the state"
        )
    return fresh | held
