"""Several adapters of one model: which are active, and which there are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_lora._suggest import did_you_mean
from mlx_lora.config import AdapterConfig, LoraConfig
from mlx_lora.layers import AdaptedLayer, adapted_layers
from mlx_lora.whole import activate_whole, copies_of, forget_whole, whole_modules


def adapter_configs(model: nn.Module) -> dict[str, AdapterConfig]:
    """Return the configurations of all adapters of a model, by name."""
    found: dict[str, AdapterConfig] = {}
    for layer in adapted_layers(model).values():
        for name, adapter in layer.known.items():
            found.setdefault(name, adapter.config)
    return found


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the active adapters."""
    found = dict.fromkeys(name for each in adapted_layers(model).values() for name in each.adapters)
    return tuple(found)


def set_adapter(model: nn.Module, names: str | Sequence[str]) -> None:
    """Make one adapter, several or none the active ones; their effects add up, in this order.

    Whole modules such as heads get the values of the first of them that has some. Adapters keep
    whether they are trained. A compiled function that captures `model.state` needs no compilation
    for an adapter of the same shapes. Raises `ValueError` for unknown names, merged models, and
    several adapters that cannot be added: with DoRA in one layer, or each with its own head.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    layers, whole = adapted_layers(model), whole_modules(model)
    known = adapter_configs(model)
    for name in names:
        check_known(name, known)
    check_not_merged(layers)
    if len(names) > 1:
        _check_addable(names, layers, whole)
    for layer in layers.values():
        layer.activate(names)
    for module in whole.values():
        activate_whole(module, names)


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Within the block the model is the one before any adapter, with its own head."""
    names = active_adapters(model)
    set_adapter(model, ())
    try:
        yield
    finally:
        set_adapter(model, names)


def delete_adapter(model: nn.Module, name: str) -> None:
    """Remove one adapter; layers without another one are again what they were.

    A model that LoftQ quantized stays quantized.
    """
    check_known(name, adapter_configs(model))
    layers = adapted_layers(model)
    check_not_merged(layers)
    set_adapter(model, tuple(each for each in active_adapters(model) if each != name))
    for path, layer in layers.items():
        layer.forget(name)
        if not layer.known:
            model.update_modules(tree_unflatten([(path, layer.base_layer)]))
    for module in whole_modules(model).values():
        forget_whole(module, name)


def check_known(name: str, known: dict[str, AdapterConfig]) -> None:
    """Raise `ValueError` if a model has no adapter of this name."""
    if name not in known:
        found = did_you_mean(name, known) if known else "; it has none"
        raise ValueError(f"the model has no adapter {name!r}{found}")


def check_not_merged(layers: dict[str, AdaptedLayer]) -> None:
    """Raise `ValueError` if adapters are merged into the layers."""
    for layer in layers.values():
        if merged := layer._outside.merged:
            listed = ", ".join(map(repr, merged))
            raise ValueError(f"the adapters {listed} are merged into the model; unmerge it first")


def _check_addable(
    names: Sequence[str], layers: dict[str, AdaptedLayer], whole: dict[str, nn.Module]
) -> None:
    for path, layer in layers.items():
        known = layer.known
        chosen = [name for name in names if name in known]
        dora = [name for name in chosen if _is_dora(known[name].config)]
        if dora and len(chosen) > 1:
            raise ValueError(
                f"{path} has the adapters {', '.join(map(repr, chosen))}, and {dora[0]!r} is DoRA, "
                f"which rescales the whole weight: their effects do not add up; activate one"
            )
    for path, module in whole.items():
        copies = copies_of(module)
        chosen = [name for name in names if copies and name in copies.by_adapter]
        if len(chosen) > 1:
            raise ValueError(
                f"{path} is trained whole by {', '.join(map(repr, chosen))}; activate one of them"
            )


def _is_dora(config: AdapterConfig) -> bool:
    return isinstance(config, LoraConfig) and config.use_dora
