"""What training an adapter needs, before it is made."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_lora.config import AdapterConfig, Ia3Config, LoraConfig
from mlx_lora.explain import parameter_count
from mlx_lora.ia3 import is_feedforward
from mlx_lora.layers import sizes_of
from mlx_lora.targets import CONVOLUTIONS, EMBEDDINGS, find_targets, saved_modules
from mlx_lora.whole import modules_with_bias

_FLOAT = 4


@dataclass(frozen=True)
class Estimate:
    """Numbers of parameters, and bytes. Activations, which depend on the batch, are not in it."""

    adapter: int
    """Parameters of the adapter's own."""
    whole: int
    """Parameters of the modules and biases that are trained whole."""
    total: int
    """Parameters of the model, without the adapter."""
    weight_bytes: int
    """Of the model, with `quantize` as it will be."""
    optimizer_bytes: int
    """Two float32 numbers for each trained parameter, as AdamW has."""
    gradient_bytes: int
    file_bytes: int
    """Of `adapter_model.safetensors`, without its header."""

    @property
    def trained(self) -> int:
        """All trained parameters."""
        return self.adapter + self.whole

    @property
    def bytes(self) -> int:
        """The sum, at the end of a step: weights, adapter, gradients, state of the optimizer."""
        return (
            self.weight_bytes + _FLOAT * self.adapter + self.gradient_bytes + self.optimizer_bytes
        )

    def __str__(self) -> str:
        share = self.trained / max(self.total + self.adapter, 1)
        return (
            f"trains {self.trained:,} of {self.total + self.adapter:,} parameters ({share:.2%}): "
            f"weights {_size(self.weight_bytes)}, adapter {_size(self.file_bytes)}, gradients "
            f"{_size(self.gradient_bytes)}, optimizer {_size(self.optimizer_bytes)}; activations "
            f"come on top"
        )


def estimate(
    model: nn.Module,
    config: AdapterConfig,
    *,
    bits: int | None = None,
    group_size: int = 64,
    optimizer_numbers: int = 2,
) -> Estimate:
    """Return what an adapter would train and need; the model does not change.

    `bits` and `group_size` are those of `mlx.nn.quantize` (affine), if it is called before for all
    but the modules that are trained whole; None is the model as it is. `optimizer_numbers` are
    those that the optimizer keeps of each parameter. Raises `ValueError` as `add_adapter` does.
    """
    targets = find_targets(model, config)
    own = sum(_own_size(each.path, each.module, config) for each in targets)
    modules = dict(model.named_modules())
    paths = saved_modules(model, config)
    whole = sum(_count(modules[path]) for path in paths)
    if isinstance(config, LoraConfig) and config.bias != "none":
        inside = {id(part) for path in paths for part in modules[path].modules()}
        adapted = {id(each.module) for each in targets}
        for module in modules_with_bias(model, adapted_only=False):
            if id(module) not in inside and (config.bias == "all" or id(module) in adapted):
                whole += module["bias"].size
    trained = own + whole
    return Estimate(
        adapter=own,
        whole=whole,
        total=parameter_count(model),
        weight_bytes=_weight_bytes(model, bits, group_size, paths),
        optimizer_bytes=_FLOAT * optimizer_numbers * trained,
        gradient_bytes=_FLOAT * trained,
        file_bytes=_FLOAT * trained,
    )


def _own_size(path: str, base: nn.Module, config: AdapterConfig) -> int:
    if isinstance(base, CONVOLUTIONS):
        rows = base.weight.shape[0]
        columns = base.weight.size // rows
    else:
        rows, columns = sizes_of(base)
    if isinstance(config, Ia3Config):
        return columns if is_feedforward(path, config) else rows
    is_embedding = isinstance(base, EMBEDDINGS)
    found = config.rank_of(path) * (rows + columns)
    if config.use_dora:
        found += columns if is_embedding else rows
    return found + (rows if config.lora_bias and not is_embedding else 0)


def _weight_bytes(model: nn.Module, bits: int | None, group_size: int, whole: list[str]) -> int:
    arrays = dict(tree_flatten(model.parameters()))
    found = sum(array.nbytes for array in arrays.values())
    if bits is None:
        return found
    for path, module in model.named_modules():
        if any(path == each or path.startswith(f"{each}.") for each in whole):
            continue
        if hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0:
            size = module.weight.size
            scales = 2 * size // group_size * module.weight.dtype.size
            found += size * bits // 8 + scales - module.weight.nbytes
    return found


def _count(module: nn.Module) -> int:
    arrays = dict(tree_flatten(module.parameters()))
    return sum(array.size for array in arrays.values() if mx.issubdtype(array.dtype, mx.floating))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1000
    return f"{count:.3g} GB"
