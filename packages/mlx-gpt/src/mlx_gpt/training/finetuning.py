"""What supervised fine-tuning and reinforcement learning share: the base model, and its optimizer.

The recipe is nanochat's, and so for models with its parameter names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import yaml
from mlx.utils import tree_unflatten

from mlx_gpt.models.files import load
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer import Tokenizer
from mlx_muon import AdamWRule, Muon, Rule, nanochat
from mlx_muon.rules import Value
from mlx_trainer import CheckpointError, Checkpoints, world_size

_WITHOUT = "training.keep_optimizer_state=false begins without momentum"


def load_base(
    path: str, dtype: str = "auto", checkpoint_blocks: bool = False
) -> tuple[Decoder, Tokenizer]:
    """Return model and tokenizer of a model or run folder, for training in this dtype."""
    named = {"float32": mx.float32, "bfloat16": mx.bfloat16, "auto": None}
    model, tokenizer = load(path, named[dtype], training=True)
    model.checkpoint_blocks = checkpoint_blocks
    return model, tokenizer


def optimizer_for(
    model: Decoder,
    batch_tokens: int,
    learning_rate: float,
    momentum: Value,
    scales: Mapping[str, float] | None = None,
    threads: int = 1,
) -> Muon:
    """Return nanochat's optimizer without its schedules, and without decay of the matrices.

    `learning_rate` is that of the matrices for 2^19 tokens an update, and others have theirs. All
    are relative: what the loop sets in its place changes them in proportion. `scales` multiplies
    those of groups by name ("wte", "lm_head", ...). Raises `ValueError` for a rate of 0.
    """
    if not learning_rate > 0:
        raise ValueError(f"training.learning_rate must be positive, got {learning_rate}")
    recipe = nanochat(
        model.config.n_embd, steps=1, batch_tokens=batch_tokens, learning_rate=learning_rate
    )
    base, scales = recipe.base_rate, scales or {}
    assert isinstance(base, float)
    return Muon(
        base,
        muon=replace(recipe.muon, momentum=momentum, weight_decay=0.0),
        adamw=_relative(recipe.adamw, 1 / base),
        groups=[
            replace(group, rule=_relative(group.rule, scales.get(group.name, 1.0) / base))
            for group in recipe.groups
        ],
        two_streams=threads > 1 or None,
        distributed=mx.distributed.init() if world_size() > 1 else None,
    )


def _relative(rule: Rule, scale: float) -> AdamWRule:
    assert isinstance(rule, AdamWRule)
    assert isinstance(rule.learning_rate, float)
    return replace(rule, learning_rate=None, relative_rate=scale * rule.learning_rate)


def base_settings(run: Path, names: Sequence[str]) -> dict[str, float]:
    """Return those training settings that the run which made a model has, by name.

    There are none for a model folder that is no run. Raises `ValueError` with the file for one that
    is damaged.
    """
    file = run / "config.yaml"
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML: {error}") from error
    training = content.get("training") if isinstance(content, dict) else None
    if not isinstance(training, dict):
        raise ValueError(
            f"{file}: not the configuration of a run of mlx-gpt (it has no training); give the "
            f"model folder itself, {run / 'model'}, for a model without its settings"
        )
    found = {name: training[name] for name in names if training.get(name)}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{file}: training.{name} must be a number above 0, got {value!r}")
    return found


def take_over_momentum(optimizer: Muon, model: nn.Module, run: str | Path) -> bool:
    """Give the optimizer the momenta of a run's last checkpoint; False if the run has none.

    The count of updates, which schedules read, begins at 0 all the same. Raises `ValueError` where
    a momentum does not fit its parameter.
    """
    try:
        checkpoint = Checkpoints(Path(run) / "checkpoints").verified()
    except CheckpointError as error:
        raise ValueError(f"{str(error).partition('; ')[0]}; {_WITHOUT}") from error
    if checkpoint is None:
        return False
    file = checkpoint / "optimizer.safetensors"
    state = tree_unflatten(list(mx.load(str(file)).items()))  # type: ignore[union-attr]
    optimizer.state["parameters"] = state["parameters"]  # type: ignore[index]
    try:
        optimizer.init(model.trainable_parameters())
    except ValueError as error:
        raise ValueError(f"{file}: {error}; {_WITHOUT}") from error
    return True
