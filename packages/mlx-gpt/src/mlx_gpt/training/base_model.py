"""The model that a run starts from, and the optimizer of the fine-tuning stages.

Pretraining starts from fresh weights or a model; fine-tuning and reinforcement learning start from
a model or the run that trained it. The optimizer's recipe is nanochat's; it expects nanochat's
parameter names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import yaml
from mlx.utils import tree_unflatten

from mlx_gpt.machine import default_dtype
from mlx_gpt.models.files import find_model_folder, load, read_model_config
from mlx_gpt.models.formats import Decoder
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import AnyTokenizer, Tokenizer
from mlx_gpt.training.plan import WIDTH_PER_LAYER, Plan, config_for
from mlx_gpt.training.settings import PretrainConfig
from mlx_muon import AdamWRule, Muon, Rule, nanochat
from mlx_muon.rules import Value
from mlx_trainer import CheckpointError, Checkpoints, ConfigError, world_size

_ONLY = "only nanochat models of July 2026 can be pretrained further; `mlx-gpt sft` accepts others"
_WITHOUT_MOMENTUM = "training.keep_optimizer_state=false starts without momentum"


def settings_from_model(init_from: str) -> dict[str, dict]:
    """Return the settings that a model determines: the tokenizer and the shape.

    Raises `FileNotFoundError` or `ValueError` unless it is a model of July 2026.
    """
    folder = find_model_folder(init_from)
    shape = read_model_config(folder)
    if not isinstance(shape, NanochatConfig):
        raise ValueError(f"{folder}: {_ONLY}")
    depth, head_dim = shape.n_layer, shape.n_embd // shape.n_head
    sizes = depth, shape.vocab_size, shape.sequence_len, shape.window_pattern
    has_usual_width = config_for(*sizes, WIDTH_PER_LAYER, head_dim).n_embd == shape.n_embd
    model = {
        "depth": depth,
        "sequence_len": shape.sequence_len,
        "window_pattern": shape.window_pattern,
        "head_dim": head_dim,
        "n_kv_head": shape.n_kv_head,
        "width_per_layer": WIDTH_PER_LAYER if has_usual_width else shape.n_embd // depth,
    }
    return {"data": {"tokenizer": str(folder)}, "model": model}


def check_shape(config: PretrainConfig, from_model: Mapping[str, dict]) -> None:
    """Raise `ConfigError` if the settings differ from those of `settings_from_model`."""
    for name, value in from_model["model"].items():
        if (given := getattr(config.model, name)) != value:
            raise ConfigError(
                f"model.{name} is {given}, but {config.model.init_from} has {value}; remove the "
                "setting: the shape comes from the model"
            )


def build_model(
    plan: Plan, config: PretrainConfig, tokenizer: Tokenizer, resume: bool = False
) -> Nanochat:
    """Return the model to start from; fresh weights depend only on the seed.

    With `resume` the weights of `model.init_from` are not read, because the checkpoint replaces
    them. Raises `ConfigError` if that model has another shape or tokenizer.
    """
    dtype, init_from = _dtype(config.model.dtype), config.model.init_from
    if init_from and not resume:
        model, its_tokenizer = load(init_from, dtype, training=True)
        if not isinstance(model, Nanochat):
            raise ValueError(f"{init_from}: {_ONLY}")
        if tokenizer.sha256 != its_tokenizer.sha256:
            raise ConfigError(
                f"data.tokenizer {config.data.tokenizer} ({_identify(tokenizer)}) is not the "
                f"tokenizer of {init_from} ({_identify(its_tokenizer)}); remove the setting: the "
                "tokenizer comes from the model"
            )
        if plan.config != model.config:
            raise ConfigError(f"{init_from} is a {model.config}, the settings give {plan.config}")
        model.checkpoint_blocks = config.model.checkpoint_blocks
        return model
    model = Nanochat(plan.config, dtype, config.model.checkpoint_blocks)
    model.initialize(mx.random.key(config.training.seed))
    mx.eval(model.parameters())
    return model


def _dtype(name: str) -> mx.Dtype:
    return {"float32": mx.float32, "bfloat16": mx.bfloat16}.get(name) or default_dtype()


def _identify(tokenizer: AnyTokenizer) -> str:
    return f"{tokenizer.vocab_size:,} tokens, sha256 {tokenizer.sha256[:12]}"


def load_base(
    path: str, dtype: str = "auto", checkpoint_blocks: bool = False
) -> tuple[Decoder, Tokenizer]:
    """Load model and tokenizer of a model or run folder for training in the named dtype.

    Raises `ValueError` for a model that is not nanochat's.
    """
    model, tokenizer = load(path, _dtype(dtype), training=True)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{path}: not a model of nanochat; mlx-gpt finetune trains all models")
    model.checkpoint_blocks = checkpoint_blocks
    return model, tokenizer


def finetuning_optimizer(
    model: Decoder,
    batch_tokens: int,
    learning_rate: float,
    momentum: Value,
    scales: Mapping[str, float] | None = None,
    threads: int = 1,
) -> Muon:
    """Return nanochat's optimizer without its schedules and without weight decay of the matrices.

    `learning_rate` is the rate of the matrices for 2^19 tokens per update. The rates of all other
    groups are relative to it: when the loop sets another rate, they change in proportion. `scales`
    multiplies the rates of groups by name ("wte", "lm_head", ...). Raises `ValueError` for a rate
    of 0.
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


def settings_of_run(run: Path, names: Sequence[str]) -> dict[str, float]:
    """Return the training settings in `names` that a base run has, by name.

    A plain model folder has none. Raises `ValueError` with the path of a damaged file.
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


def load_momentum(optimizer: Muon, model: nn.Module, run: str | Path) -> bool:
    """Load the momenta of a run's last checkpoint into the optimizer; False without a checkpoint.

    The count of updates, which schedules read, still starts at 0. Raises `ValueError` if a momentum
    does not fit its parameter.
    """
    try:
        checkpoint = Checkpoints(Path(run) / "checkpoints").verified()
    except CheckpointError as error:
        raise ValueError(f"{str(error).partition('; ')[0]}; {_WITHOUT_MOMENTUM}") from error
    if checkpoint is None:
        return False
    file = checkpoint / "optimizer.safetensors"
    state = tree_unflatten(list(mx.load(str(file)).items()))  # type: ignore[union-attr]
    optimizer.state["parameters"] = state["parameters"]  # type: ignore[index]
    try:
        optimizer.init(model.trainable_parameters())
    except ValueError as error:
        raise ValueError(f"{file}: {error}; {_WITHOUT_MOMENTUM}") from error
    return True
