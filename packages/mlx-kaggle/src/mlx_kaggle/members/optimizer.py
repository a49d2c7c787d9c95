"""The optimizer of a run: AdamW, or Muon for the matrices inside the encoder with AdamW."""

from collections.abc import Callable

import mlx.core as mx
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten

from mlx_encoders import EncoderModel, layer_index
from mlx_kaggle.members.adapters import adapter_rate
from mlx_kaggle.members.model import TextModel
from mlx_kaggle.settings.config import RunConfig
from mlx_muon import AdamWRule, Muon, MuonRule
from mlx_muon import Group as MuonGroup
from mlx_trainer import AdamW, Group, Groups

BETAS = (0.9, 0.999)
EPS = 1e-8
# ModernBERT fuses query, key and value in one matrix, and both halves of its gated MLP in another;
# NeoBERT has the latter. Its `qkv` is left whole: it takes turns by head.
FUSED = {"Wqkv": 3, "Wi": 2, "w12": 2}


def make_optimizer(config: RunConfig, model: TextModel) -> Optimizer:
    """Return the configured optimizer.

    Its `learning_rate` is set before every update; the rates of all groups are multiples of it.
    """
    training = config.training
    if training.optimizer == "adamw":
        groups = parameter_groups(config, model.encoder)
        return AdamW(BETAS, EPS, training.weight_decay, groups)
    # Our threads leave BLAS a share of the cores, see `sharing_cores`.
    two_streams = True if training.threads > 1 else None
    groups = muon_groups(config, model)
    return Muon(training.learning_rate, groups=groups, two_streams=two_streams)


def parameter_groups(config: RunConfig, encoder: EncoderModel) -> Groups:
    """Return the function from a parameter of a `TextModel` to its rate multiplier and decay."""
    training = config.training
    depth = encoder.config.num_hidden_layers + 1

    def group(path: str, array: mx.array) -> Group:
        decay = array.ndim >= 2
        if not path.startswith("encoder."):
            return Group(rate=training.head_rate, decay=decay)
        layer = layer_index(path.removeprefix("encoder."), encoder.config)
        rate = training.layer_decay ** (depth - layer) * adapter_rate(config, path)
        return Group(rate=rate, decay=decay)

    return group


def optimizer_table(config: RunConfig, model: TextModel) -> str | None:
    """Return a table of the rule and numbers of each parameter; `None` for AdamW alone."""
    optimizer = make_optimizer(config, model)
    return optimizer.explain(model) if isinstance(optimizer, Muon) else None


def muon_groups(config: RunConfig, model: TextModel) -> list[MuonGroup]:
    """Return one group of parameters for each rule; together they cover all trained parameters.

    Rates and decay are those of `parameter_groups`, times `muon_rate` for Muon: with "moonlight"
    its updates are as large as AdamW's late updates; AdamW's first updates are larger.
    """
    training, group_of = config.training, parameter_groups(config, model.encoder)
    found: dict[tuple[str, MuonRule | AdamWRule], set[str]] = {}
    parameters: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
    for path, array in parameters.items():
        group = group_of(path, array)
        rate, decay = group.rate, training.weight_decay * group.decay
        part = part_of(path, array, model.encoder)
        if part == "matrices":
            rate *= training.muon_rate
            rule = MuonRule(
                relative_rate=rate,
                weight_decay=decay,
                scale="moonlight",
                split=split_of(path, array),
            )
        else:
            rule = AdamWRule(relative_rate=rate, weight_decay=decay, betas=BETAS, eps=EPS)
        found.setdefault((part, rule), set()).add(path)
    return [MuonGroup(_is_one_of(paths), rule, part) for (part, rule), paths in found.items()]


def part_of(path: str, array: mx.array, encoder: EncoderModel) -> str:
    """Return the part of a `TextModel` that a parameter belongs to; Muon trains "matrices"."""
    if not path.startswith("encoder."):
        return "head"
    if array.ndim < 2:
        return "norms and biases"
    layer = layer_index(path.removeprefix("encoder."), encoder.config)
    if layer == 0:
        return "embeddings"
    return "matrices" if layer <= encoder.config.num_hidden_layers else "pooler"


def split_of(path: str, array: mx.array) -> tuple[int, ...] | None:
    """Return the rows of each matrix in a fused matrix, `None` for a plain matrix."""
    parts = FUSED.get(path.split(".")[-2])
    return (array.shape[0] // parts,) * parts if parts else None


def _is_one_of(paths: set[str]) -> Callable[[str, mx.array], bool]:
    return lambda path, _: path in paths
