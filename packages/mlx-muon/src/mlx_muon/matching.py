"""Which rule a parameter gets: groups of the user first, then what its name and shape say."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import mlx.core as mx

from mlx_muon.blocks import Blocks, blocks_of
from mlx_muon.rules import AdamWRule, MuonRule, Rule

Match = str | Callable[[str, mx.array], bool]

EMBEDDINGS = {"embed", "embeds", "embedding", "embeddings", "wte", "wpe"}
HEADS = {"head", "heads", "classifier", "score", "qa_outputs"}
NORMS_AND_BIASES = {"bias", "norm", "layernorm", "rmsnorm", "ln"}


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


def kind_of(path: str, array: mx.array) -> str:
    """Return "embedding", "head", "norm or bias" or "matrix", by name, then by number of axes."""
    parts = path.lower().split(".")
    words = {word for part in parts for word in re.split(r"_|\d+", part)}
    if array.ndim < 2 or words & NORMS_AND_BIASES:
        return "norm or bias"
    if words & EMBEDDINGS:
        return "embedding"
    # The top-level "output" of Llama's own checkpoints; BERT has layers of that name inside.
    if any(part in HEADS or part.endswith("_head") for part in parts) or parts[0] == "output":
        return "head"
    return "matrix"


def assign(
    path: str,
    array: mx.array,
    groups: Sequence[Group],
    muon: MuonRule,
    adamw: AdamWRule,
    is_embedding: bool = False,
) -> Assignment:
    """Return what is done with one parameter. The first group that matches decides.

    Raises `ValueError` where a group's `MuonRule` gets what is no matrix.
    """
    group = next((each for each in groups if each.matches(path, array)), None)
    if group is None:
        kind = "embedding" if is_embedding else kind_of(path, array)
        rule: Rule = muon if kind == "matrix" else adamw
        name = kind
    else:
        rule, name = group.rule, group.name
    if isinstance(rule, AdamWRule):
        return Assignment(name, rule, None)
    try:
        return Assignment(name, rule, blocks_of(path, array.shape, rule))
    except ValueError as error:
        raise ValueError(f"group {name!r}: {error}") from None
