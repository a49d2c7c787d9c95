"""Assign a rule to each parameter: by the user's groups, the model's structure, or its name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import mlx.core as mx

from mlx_muon.matrices import Matrices, matrices_of
from mlx_muon.rules import AdamWRule, MuonRule, Rule
from mlx_muon.structure import Structure, kind_by_name

Match = str | Callable[[str, mx.array], bool]


@dataclass(frozen=True)
class Group:
    """A rule for the parameters that `match`.

    `match` is a shell pattern for the whole path ("*.router.weight") or a function of
    (path, array). `explain` and errors use `name`; it defaults to the pattern or the rule's type.
    """

    match: Match
    rule: Rule
    name: str = ""

    def __post_init__(self):
        """Check the fields and set the default name."""
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
        """Return whether the parameter belongs to this group."""
        if isinstance(self.match, str):
            return fnmatchcase(path, self.match)
        return bool(self.match(path, array))


@dataclass(frozen=True)
class Assignment:
    """The rule of one parameter, and the reason; `matrices` is `None` under AdamW."""

    group: str
    rule: Rule
    matrices: Matrices | None
    why: str


def assign(
    path: str,
    array: mx.array,
    groups: Sequence[Group],
    muon: MuonRule,
    adamw: AdamWRule,
    structure: Structure,
) -> Assignment:
    """Return the rule of one parameter: that of the first matching group, else by its kind.

    Raises `ValueError` if a group assigns a `MuonRule` to a parameter that is not a matrix.
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
        matrices = matrices_of(path, array.shape, rule, is_convolution)
    except ValueError as error:
        raise ValueError(f"group {name!r}: {error}") from None
    return Assignment(name, rule, matrices, why)
