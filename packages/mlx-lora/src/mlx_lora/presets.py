"""Ready-made configurations, by name, for the models that this repository and mlx-lm have."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.nn as nn

from mlx_lora._suggest import did_you_mean
from mlx_lora.config import LoraConfig
from mlx_lora.targets import is_linear, named_layers

# The projections of queries and values, or of all three in one, by their names in models.
_QUERY_VALUE = (
    ("query", "value"),  # BERT
    ("q_proj", "v_proj"),  # Llama and most decoders
    ("c_q", "c_v"),  # nanochat
    ("query_proj", "value_proj"),  # mlx.nn.MultiHeadAttention
    ("Wqkv",),  # ModernBERT
    ("qkv",),  # NeoBERT
    ("c_attn",),  # GPT-2
)


@dataclass(frozen=True)
class Preset:
    """A configuration, and how to quantize the model before it is used."""

    config: LoraConfig
    quantization: dict[str, Any] | None
    """Arguments of `mlx.nn.quantize`; None leaves the weights as they are."""
    gradient_checkpointing: bool = False
    """Whether the preset counts on layers being computed again in the backward pass."""


def _config(r: int, targets: str) -> LoraConfig:
    return LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets)


_ATTENTION, _ALL = "attention", "all-linear"
PRESETS = {
    "efficient": Preset(_config(4, _ATTENTION), None),
    "balanced": Preset(_config(8, _ALL), None),
    "expressive": Preset(_config(16, _ALL), None),
    "qlora_memory": Preset(_config(8, _ATTENTION), {"bits": 4, "group_size": 64}, True),
    "qlora_quality": Preset(_config(16, _ALL), {"bits": 4, "group_size": 32}),
}
"""efficient: rank 4 on queries and values; balanced: rank 8 on all linear layers; expressive: rank
16; qlora_memory: rank 8 on queries and values of a 4-bit model whose layers are computed again;
qlora_quality: rank 16 on all layers of a 4-bit model in groups of 32. The scale is always 2."""


def preset(name: str, model: nn.Module, **changes: Any) -> Preset:
    """Return a preset for a model; `changes` replace fields of its configuration.

    Raises `ValueError` for an unknown name, and for presets of queries and values if the model has
    none under a known name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}")
    found = PRESETS[name]
    if found.config.target_modules == _ATTENTION and "target_modules" not in changes:
        changes["target_modules"] = _query_value(name, model)
    return replace(found, config=replace(found.config, **changes))


def _query_value(name: str, model: nn.Module) -> list[str]:
    last = {path.rpartition(".")[2] for path, layer in named_layers(model) if is_linear(layer)}
    for names in _QUERY_VALUE:
        if last.issuperset(names):
            return list(names)
    listed = ", ".join(map(repr, sorted(last)))
    raise ValueError(
        f"the preset {name!r} adapts the projections of queries and values, which the model does "
        f"not have under a known name; set target_modules to some of {listed}"
    )
