"""What `finetune` trains: a model with a new adapter, or all its weights; and the optimizer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten

from mlx_gpt.machine import default_dtype
from mlx_gpt.models.adapters import (
    Base,
    add_saved_adapter,
    find_adapter,
    quantize_layers,
    read_base,
)
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.files import find_model_folder, load
from mlx_gpt.models.gpt2 import GPT2
from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_gpt.tokenizer.tokenizer import Tokenizer
from mlx_gpt.training.finetune_settings import FinetuneConfig, FinetuneData, FinetuneMethod
from mlx_lora import LoraConfig, add_adapter, lora_plus_rates
from mlx_muon import Muon
from mlx_trainer import AdamW, ConfigError, Group

_REGEX = "re:"
_RATES = {"adapter": 2e-4, "full": 2e-5}


def load_for_training(config: FinetuneConfig) -> tuple[Decoder, AnyTokenizer, Base | None]:
    """Return model and tokenizer, and what an adapter will belong to, None without one.

    Only what is to be trained is not frozen. Raises `ConfigError` for settings that do not fit the
    model.
    """
    method = config.method
    if find_adapter(config.model):
        raise ConfigError(
            f"model: {config.model} is an adapter; give its model, and method.init_from="
            f"{config.model} to train the adapter further, or fuse both first"
        )
    name = config.training.dtype
    dtype = {"float32": mx.float32, "bfloat16": mx.bfloat16}.get(name) or default_dtype()
    model, tokenizer = load(config.model, dtype, training=method.is_full)
    prepare_tokenizer(tokenizer, config.data)
    base = None
    if method.is_full:
        _unfreeze(model, method, config.model)
    else:
        base = _quantize(model, config)
        _add_adapter(model, config, base)
    model.checkpoint_blocks = config.training.checkpoint_blocks  # type: ignore[attr-defined]
    model.train()
    mx.eval(model.state)
    return model, tokenizer, base


def prepare_tokenizer(tokenizer: AnyTokenizer, data: FinetuneData) -> None:
    """Give the tokenizer the chat template of the settings, if they have one.

    Raises `ConfigError` for settings of rows that nanochat's models do not have.
    """
    is_nanochat = isinstance(tokenizer, Tokenizer)
    if is_nanochat and data.pack:
        raise ConfigError("data.pack: nanochat's models do not take packed rows")
    if is_nanochat and data.chat_template:
        raise ConfigError("data.chat_template is for other models than nanochat's, which has one")
    if data.chat_template:
        tokenizer.use_chat_template(data.chat_template)  # type: ignore[union-attr]


def adapter_config(method: FinetuneMethod, blocks: int) -> LoraConfig:
    """Return the configuration of a new adapter for a model of `blocks` layers."""
    if method.last_layers > blocks:
        raise ConfigError(
            f"method.last_layers: got {method.last_layers}, and the model has {blocks} layers"
        )
    targets: str | list[str] = method.targets
    if method.targets.startswith(_REGEX):
        targets = method.targets.removeprefix(_REGEX)
    elif method.targets != "all-linear":
        targets = [each.strip() for each in method.targets.split(",")]
    layers = range(blocks - method.last_layers, blocks) if method.last_layers else None
    return LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets,
        layers_to_transform=list(layers) if layers else None,
        modules_to_save=method.modules_to_save or None,
        use_rslora=method.rslora,
        use_dora=method.name == "dora",
        task_type="CAUSAL_LM",
    )


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """Return the blocks of a model."""
    body = model["model"] if "model" in model else model["transformer"]
    return body["layers"] if "layers" in body else body["h"]


def is_quantized(model: nn.Module) -> bool:
    """Return whether a layer of the model is quantized."""
    return any("scales" in module for module in model.modules())


def make_optimizer(config: FinetuneConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer; matrices decay, and with LoRA+ B has a rate of its own."""
    training, ratio = config.training, config.method.lora_plus
    if training.optimizer == "muon":
        return Muon(peak_rate(config), weight_decay=training.weight_decay)
    rates = lora_plus_rates(model, ratio) if ratio > 1 else {}

    def group(path: str, parameter: mx.array) -> Group:
        return Group(rates.get(path, 1.0), decay=parameter.ndim >= 2)

    return AdamW(weight_decay=training.weight_decay, groups=group)


def peak_rate(config: FinetuneConfig) -> float:
    """Return the highest learning rate."""
    default = _RATES["full" if config.method.is_full else "adapter"]
    return config.training.learning_rate or default


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters, adapters included; of quantized layers the numbers they
    stand for. Buffers, such as the scales of adapters, are no parameters."""
    found = 0
    for module in model.modules():
        own: Any = [each for name, each in module.items()
                    if isinstance(each, mx.array) and not name.startswith("_")]  # fmt: skip
        if "scales" in module:
            found += module["scales"].size * module.group_size - module["weight"].size
            own = [module["weight"], *([module["bias"]] if "bias" in module else [])]
        found += sum(each.size for each in own)
    return found


def trained_parameters(model: nn.Module) -> int:
    """Return the number of trained parameters."""
    arrays: Any = tree_flatten(model.trainable_parameters())
    return sum(array.size for _, array in arrays)


def _unfreeze(model: Decoder, method: FinetuneMethod, source: str) -> None:
    if is_quantized(model):
        raise ConfigError(f"method.name: {source} is quantized, and full trains float weights")
    if method.last_layers:
        adapter_config(method, len(blocks_of(model)))  # checks the number
        model.freeze()
        for block in blocks_of(model)[-method.last_layers :]:
            block.unfreeze()


def _quantize(model: Decoder, config: FinetuneConfig) -> Base:
    """Quantize the model if the settings say so; return what its adapter belongs to."""
    method, folder = config.method, str(find_model_folder(config.model).resolve())
    bits = method.quantize or (4 if method.name == "qlora" else 0)
    if is_quantized(model):
        if method.quantize:
            raise ConfigError(f"method.quantize: {config.model} is quantized already; remove it")
        bits = 0
    if bits:
        quantize_layers(model, bits, method.group_size)
    return Base(folder, bits, method.group_size)


def _add_adapter(model: Decoder, config: FinetuneConfig, base: Base) -> None:
    method = config.method
    if method.init_from is None:
        key = mx.random.key(config.training.seed)
        made = adapter_config(method, len(blocks_of(model)))
        made = replace(
            made, base_model_name_or_path=base.model, fan_in_fan_out=isinstance(model, GPT2)
        )
        add_adapter(model, made, key=key)
        return
    if (folder := find_adapter(method.init_from)) is None:
        raise ConfigError(f"method.init_from: {method.init_from} is not the folder of an adapter")
    if (folder / "base.json").is_file() and (other := read_base(folder)).bits != base.bits:
        raise ConfigError(
            f"method.init_from: the adapter was trained on {_form(other)} and the model is "
            f"{_form(base)}; set method.quantize={other.bits}"
        )
    add_saved_adapter(model, Path(folder), trainable=True)


def _form(base: Base) -> str:
    return f"a model of {base.bits} bits" if base.bits else "a model as it is in its folder"
