"""Put an adapter into a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_lora.adapters import active_adapters, adapter_configs, delete_adapter, set_adapter
from mlx_lora.config import AdapterConfig, Ia3Config, LoraConfig
from mlx_lora.convolution import ConvolutionLora
from mlx_lora.embedding import EmbeddingLora
from mlx_lora.ia3 import LinearIa3
from mlx_lora.layers import AdaptedLayer, adapted_layers
from mlx_lora.linear import LinearLora
from mlx_lora.start import set_start
from mlx_lora.targets import CONVOLUTIONS, EMBEDDINGS, Target, find_targets, saved_modules
from mlx_lora.whole import keep_whole, modules_with_bias, whole_modules


def add_adapter(
    model: nn.Module,
    config: AdapterConfig,
    name: str = "default",
    *,
    key: mx.array | None = None,
    trainable: bool = True,
    strict: bool = True,
) -> None:
    """Put a new adapter into `model`, in place, and make it the only active one.

    The model is frozen, but for the adapter. `key` makes the initial values repeatable; None draws
    from MLX's global state. Without `strict`, a pattern may match nothing if others do. Raises
    `ValueError` for other patterns that match nothing, a name that is taken, and modules that no
    adapter is made for; then the model is unchanged.
    """
    if not name or "." in name:
        raise ValueError(f"the name of an adapter must not be empty or have dots, got {name!r}")
    if name in adapter_configs(model):
        raise ValueError(f"the model already has an adapter {name!r}; delete_adapter removes it")
    targets = find_targets(model, config, strict)
    whole = saved_modules(model, config, strict)
    existing = adapted_layers(model)
    _check_apart(model, targets, whole, existing)
    if isinstance(config, LoraConfig) and config.init_lora_weights == "loftq" and existing:
        raise ValueError("'loftq' quantizes the model's layers, so it must be the first adapter")
    keys = mx.random.split(_new_key() if key is None else key, len(targets))
    made = [_new_adapter(each, config, key) for each, key in zip(targets, keys, strict=True)]
    mx.eval(made)
    set_adapter(model, ())  # what is not active keeps its own trainability
    model.freeze()
    for target, (adapter, base) in zip(targets, made, strict=True):
        if (layer := existing.get(target.path)) is None:
            layer = AdaptedLayer(base)
            base.freeze()
            model.update_modules(tree_unflatten([(target.path, layer)]))
        if not trainable:
            adapter.freeze()
        layer.adapters = {name: adapter}
    _keep_whole(model, config, name, whole, trainable)
    set_adapter(model, name)


@contextmanager
def unchanged_on_error(model: nn.Module, name: str) -> Iterator[None]:
    """Remove the adapter `name`, if it was made, when the block fails; nothing else changes then.

    Active adapters and what is frozen are as before.
    """
    active = active_adapters(model)
    frozen = [(module, set(module._no_grad)) for module in model.modules()]
    had = name in adapter_configs(model)
    try:
        yield
    except BaseException:
        if not had and name in adapter_configs(model):
            delete_adapter(model, name)
            set_adapter(model, active)
        for module, keys in frozen:
            module._no_grad = keys
        raise


def _check_apart(
    model: nn.Module,
    targets: list[Target],
    whole: list[str],
    existing: dict[str, AdaptedLayer],
) -> None:
    """Refuse modules that are used twice, and those that two adapters would keep in two ways."""
    paths: dict[int, str] = {}
    for target in targets:
        if (other := paths.setdefault(id(target.module), target.path)) != target.path:
            raise ValueError(
                f"{target.path} and {other} are one module, used twice; adapt one of them"
            )
    for path in whole:
        if inside := next((each for each in existing if f"{each}.".startswith(f"{path}.")), None):
            raise ValueError(f"{path} is to be trained whole, but {inside} in it has an adapter")
    for path in whole_modules(model):
        for target in targets:
            if f"{target.path}.".startswith(f"{path}.") and target.path not in existing:
                raise ValueError(f"{target.path} is in {path}, which another adapter trains whole")


def _new_adapter(target: Target, config: AdapterConfig, key: mx.array) -> tuple[Any, Any]:
    """Return an adapter for a module, and the module, which LoftQ replaces."""
    base = target.module
    if isinstance(config, Ia3Config):
        kind: Any = LinearIa3
    elif isinstance(base, EMBEDDINGS):
        kind = EmbeddingLora
    else:
        kind = ConvolutionLora if isinstance(base, CONVOLUTIONS) else LinearLora
    adapter = kind(base, config, target.path, target.reason)
    return adapter, set_start(adapter, base, target.path, key)


def _keep_whole(
    model: nn.Module, config: AdapterConfig, name: str, paths: list[str], trainable: bool
) -> None:
    modules = dict(model.named_modules())
    for path in paths:
        keep_whole(modules[path], name, trainable)
    if not isinstance(config, LoraConfig) or config.bias == "none":
        return
    whole = {id(part) for path in paths for part in modules[path].modules()}
    for module in modules_with_bias(model, config.bias == "lora_only"):
        if id(module) not in whole:
            keep_whole(module, name, trainable, keys=("bias",))


def _new_key() -> mx.array:
    """Return a key drawn from the global random state."""
    return mx.random.randint(-(2**31), 2**31 - 1, (2,)).view(mx.uint32)
