"""Adapters for MLX modules: LoRA, rsLoRA, DoRA, QLoRA, IA3 and BitFit."""

from mlx_lora.adapters import (
    active_adapters,
    adapter_configs,
    delete_adapter,
    disable_adapters,
    set_adapter,
)
from mlx_lora.config import AdapterConfig, Ia3Config, LoraConfig
from mlx_lora.inject import add_adapter
from mlx_lora.layers import AdaptedLayer
from mlx_lora.peft_files import load_adapter, read_config, save_adapter

__all__ = [
    "AdaptedLayer",
    "AdapterConfig",
    "Ia3Config",
    "LoraConfig",
    "active_adapters",
    "adapter_configs",
    "add_adapter",
    "delete_adapter",
    "disable_adapters",
    "load_adapter",
    "read_config",
    "save_adapter",
    "set_adapter",
]
