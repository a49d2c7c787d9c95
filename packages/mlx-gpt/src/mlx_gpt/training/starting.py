"""What a run of pretraining begins with: fresh weights, or those of a model there is."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from mlx_gpt.machine import default_dtype
from mlx_gpt.models.files import find_model_folder, load, read_model_config
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.limits import SettingsError
from mlx_gpt.training.plan import WIDTH_PER_LAYER, Plan, config_for
from mlx_gpt.training.pretrain_config import PretrainConfig

_ONLY = "only models of nanochat of July 2026 are pretrained further; `mlx-gpt sft` takes others"
_FROM_THE_SHAPE = ("depth", "sequence_len", "window_pattern", "head_dim", "n_kv_head")


def settings_of(init_from: str) -> dict[str, dict]:
    """Return the settings that a model decides: its tokenizer, and the shape.

    Raises `FileNotFoundError` or `ValueError` where there is no model of July 2026.
    """
    folder = find_model_folder(init_from)
    shape = read_model_config(folder)
    if not isinstance(shape, NanochatConfig):
        raise ValueError(f"{folder}: {_ONLY}")
    depth, head_dim = shape.n_layer, shape.n_embd // shape.n_head
    sizes = depth, shape.vocab_size, shape.sequence_len, shape.window_pattern
    usual = config_for(*sizes, WIDTH_PER_LAYER, head_dim).n_embd == shape.n_embd
    chosen = (depth, shape.sequence_len, shape.window_pattern, head_dim, shape.n_kv_head)
    width = WIDTH_PER_LAYER if usual else shape.n_embd // depth
    model = dict(zip(_FROM_THE_SHAPE, chosen, strict=True)) | {"width_per_layer": width}
    return {"data": {"tokenizer": str(folder)}, "model": model}


def check_shape(config: PretrainConfig, decided: Mapping[str, dict]) -> None:
    """Raise `SettingsError` where a configuration asks for another shape than `settings_of` says.

    Otherwise what was given would be dropped in silence.
    """
    for name, value in decided["model"].items():
        if (asked := getattr(config.model, name)) != value:
            raise SettingsError(
                f"model.{name} is {asked}, but {config.model.init_from} has {value}; leave it out: "
                "the model brings its own shape"
            )


def build_model(
    plan: Plan, config: PretrainConfig, tokenizer: Tokenizer, resume: bool = False
) -> Nanochat:
    """Return the model to begin with: fresh weights depend on the seed alone.

    With `resume` a checkpoint has the weights, and those of `model.init_from` are not read. Raises
    `SettingsError` where the shape or the tokenizer is not that model's.
    """
    named = {"float32": mx.float32, "bfloat16": mx.bfloat16, "auto": default_dtype()}
    dtype = named[config.model.dtype]
    if config.model.init_from and not resume:
        model, its_tokenizer = load(config.model.init_from, dtype, training=True)
        if not isinstance(model, Nanochat):
            raise ValueError(f"{config.model.init_from}: {_ONLY}")
        _check_same(config, plan, model, tokenizer, its_tokenizer)
        model.checkpoint_blocks = config.model.checkpoint_blocks
        return model
    model = Nanochat(plan.config, dtype, config.model.checkpoint_blocks)
    model.initialize(mx.random.key(config.training.seed))
    mx.eval(model.parameters())
    return model


def _check_same(
    config: PretrainConfig, plan: Plan, model: Nanochat, ours: Tokenizer, its: Tokenizer
) -> None:
    source = Path(str(config.model.init_from))
    if ours.sha256 != its.sha256:
        raise SettingsError(
            f"data.tokenizer {config.data.tokenizer} ({ours.vocab_size:,} tokens, sha256 "
            f"{ours.sha256[:12]}) is not the tokenizer of {source} ({its.vocab_size:,} tokens, "
            f"sha256 {its.sha256[:12]}); leave it out: the model brings its own"
        )
    if plan.config != model.config:
        raise SettingsError(f"{source} is a {model.config}, the settings ask for {plan.config}")
