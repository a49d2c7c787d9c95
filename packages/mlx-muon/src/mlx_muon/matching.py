"""Which rule a parameter gets: groups of the user first, then what its name and shape say."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import mlx.core as mx
import mlx.nn as nn

from mlx_muon.blocks import Blocks, blocks_of
from mlx_muon.rules import AdamWRule, MuonRule, Rule

Match = str | Callable[[str, mx.array], bool]

EMBEDDINGS = {"embed", "embeds", "embedding", "embeddings", "wte", "wpe"}
EMBEDDINGS |= {"pos", "position", "positions", "positional", "token", "tokens"}
HEADS = {"head", "classifier", "score", "qa_outputs", "to_logits", "unembed", "decoder"}
NORMS_AND_BIASES = {"bias", "norm", "layernorm", "rmsnorm", "ln", "log"}


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


def kind_of(path: str, array: mx.array) -> str:
    """Return "embedding", "head", "norm or bias" or "matrix", by name, then by number of axes."""
    parts = path.lower().split(".")
    module, name = parts[-2] if len(parts) > 1 else "", parts[-1]
    if array.ndim < 2 or not array.size or _words(module, name) & NORMS_AND_BIASES:
        return "norm or bias"
    # Stacks of matrices are inside of a model, whatever they are called (MLA has an `embed_q`).
    if _words(*parts) & EMBEDDINGS and (array.ndim != 3 or 1 in array.shape):
        return "embedding"
    # The first part is that of a head of several layers, or the "output" of Llama's checkpoints;
    # BERT has layers of that name inside.
    is_head = module in HEADS or parts[0] in HEADS - {"decoder"} or parts[0] == "output"
    if is_head or any(each.endswith("_head") for each in (module, parts[0])):
        return "head"
    return "matrix"


def _words(*parts: str) -> set[str]:
    return {word for part in parts for word in re.split(r"_|\d+", part)}


def assign(
    path: str,
    array: mx.array,
    groups: Sequence[Group],
    muon: MuonRule,
    adamw: AdamWRule,
    module: str | None = None,
) -> Assignment:
    """Return what is done with one parameter. The first group that matches decides.

    `module` is "embedding" or "convolution" where the type of its module says so. Raises
    `ValueError` where a group's `MuonRule` gets what is no matrix.
    """
    group = next((each for each in groups if each.matches(path, array)), None)
    if group is None:
        name = "embedding" if module == "embedding" else kind_of(path, array)
        rule: Rule = muon if name == "matrix" else adamw
    else:
        rule, name = group.rule, group.name
    if isinstance(rule, AdamWRule):
        return Assignment(name, rule, None)
    try:
        blocks = blocks_of(path, array.shape, rule, module == "convolution")
    except ValueError as error:
        raise ValueError(f"group {name!r}: {error}") from None
    return Assignment(name, rule, blocks)


def modules_of(model: nn.Module) -> dict[str, str]:
    """Return "embedding" or "convolution" by path for the weights whose module says so."""
    found = {}
    for name, module in model.named_modules():
        path = f"{name}.weight" if name else "weight"
        if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
            found[path] = "embedding"
        elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):  # others have more axes
            found[path] = "convolution"
    return found
