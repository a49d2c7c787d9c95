"""Which rule a parameter gets: by groups of the user, by the model's structure, by its name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import mlx.core as mx

from mlx_muon.blocks import Blocks, blocks_of
from mlx_muon.names import kind_by_name
from mlx_muon.rules import AdamWRule, MuonRule, Rule
from mlx_muon.structure import Structure

Match = str | Callable[[str, mx.array], bool]


@dataclass(frozen=True)
class Group:
    """The parameters that `match`, and their rule.

    `match` is a pattern for the whole path ("*.router.weight", as in a shell) or a function of
    (path, array). `name` is what `explain` and errors call the group.
    """

    match: Match
    rule: Rule
    name: str = ""

    def __post_init__(self):
        """Name the group after its pattern or its rule where no name is given."""
        if not isinstance(self.rule, MuonRule | AdamWRule):
            raise TypeError(f"Group: rule must be a MuonRule or AdamWRule, got {self.rule!r}")
        if not isinstance(self.match, str) and not callable(self.match):
            raise TypeError(
                f"Group: match must be a pattern or a function of (path, array), got {self.match!r}"
            )
        if not self.name:
            name = self.match if isinstance(self.match, str) else type(self.rule).__name__
            object.__setattr__(self, "name", name)

    def matches(self, path: str, array: mx.array) -> bool:
        """Say whether the parameter is one of this group."""
        if isinstance(self.match, str):
            return fnmatchcase(path, self.match)
        return bool(self.match(path, array))


@dataclass(frozen=True)
class Assignment:
    """What is done with one parameter, and why; `blocks` is `None` under AdamW."""

    group: str
    rule: Rule
    blocks: Blocks | None
    why: str


def assign(
    path: str,
    array: mx.array,
    groups: Sequence[Group],
    muon: MuonRule,
    adamw: AdamWRule,
    structure: Structure,
) -> Assignment:
    """Return what is done with one parameter.

    The first group that matches decides, then the structure of the model, then the name. Raises
    `ValueError` where a group's `MuonRule` gets what is no matrix.
    """
    is_convolution = path in structure.convolutions
    group = next((each for each in groups if each.matches(path, array)), None)
    if group is None:
        name, why = structure.kinds.get(path) or kind_by_name(path, array)
        rule: Rule = muon if name == "matrix" else adamw
    else:
        rule, name = group.rule, group.name
        pattern = group.match if isinstance(group.match, str) else "the group's function"
        why = f"matches {pattern}"
    if isinstance(rule, AdamWRule):
        return Assignment(name, rule, None, why)
    try:
        blocks = blocks_of(path, array.shape, rule, is_convolution)
    except ValueError as error:
        raise ValueError(f"group {name!r}: {error}") from None
    return Assignment(name, rule, blocks, why)
