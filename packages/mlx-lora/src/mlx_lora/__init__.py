"""Adapters for MLX modules: LoRA, rsLoRA, DoRA, QLoRA, IA3 and BitFit."""

from mlx_lora.adapters import (
    active_adapters,
    adapter_configs,
    delete_adapter,
    disable_adapters,
    set_adapter,
)
from mlx_lora.bitfit import bitfit
from mlx_lora.combine import combine_adapters
from mlx_lora.config import AdapterConfig, Ia3Config, LoraConfig
from mlx_lora.estimate import Estimate, estimate
from mlx_lora.eva import add_eva_adapter
from mlx_lora.explain import explain
from mlx_lora.inject import add_adapter
from mlx_lora.layers import AdaptedLayer
from mlx_lora.merge import MergedLayer, MergeReport, merge, merge_and_unload, unmerge
from mlx_lora.mlx_lm_files import load_mlx_lm_adapter, save_mlx_lm_adapter
from mlx_lora.peft_config import read_config
from mlx_lora.peft_files import load_adapter, save_adapter
from mlx_lora.presets import PRESETS, Preset, preset
from mlx_lora.rates import lora_plus, lora_plus_rates
from mlx_lora.rows import MixedAdapters, adapter_rows
from mlx_lora.targets import Target, find_targets

__all__ = [
    "PRESETS",
    "AdaptedLayer",
    "AdapterConfig",
    "Estimate",
    "Ia3Config",
    "LoraConfig",
    "MergeReport",
    "MergedLayer",
    "MixedAdapters",
    "Preset",
    "Target",
    "active_adapters",
    "adapter_configs",
    "adapter_rows",
    "add_adapter",
    "add_eva_adapter",
    "bitfit",
    "combine_adapters",
    "delete_adapter",
    "disable_adapters",
    "estimate",
    "explain",
    "find_targets",
    "load_adapter",
    "load_mlx_lm_adapter",
    "lora_plus",
    "lora_plus_rates",
    "merge",
    "merge_and_unload",
    "preset",
    "read_config",
    "save_adapter",
    "save_mlx_lm_adapter",
    "set_adapter",
    "unmerge",
]
