"""Modules, and biases, that are trained whole: one copy of their values for each adapter."""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_lora.layers import AdaptedLayer


@dataclass
class Copies:
    """The values of a module by adapter. The module has those of `active`; the rest is here."""

    keys: tuple[str, ...] | None
    """The parameters of the module that are copied; None is all, also those of modules inside."""
    original: dict[str, mx.array]
    by_adapter: dict[str, dict[str, mx.array]] = field(default_factory=dict)
    trainable: dict[str, bool] = field(default_factory=dict)
    active: str | None = None


def keep_whole(
    module: nn.Module, name: str, trainable: bool, keys: tuple[str, ...] | None = None
) -> None:
    """Give an adapter its own values of a module, equal to the original ones at first."""
    copies = copies_of(module)
    if copies is None:
        copies = Copies(keys, values_of(module, keys))
        module._whole = copies
    copies.by_adapter[name] = dict(copies.original)
    copies.trainable[name] = trainable


def copies_of(module: nn.Module) -> Copies | None:
    """Return what is kept of a module."""
    return module.__dict__.get("_whole")


def values_of(module: nn.Module, keys: tuple[str, ...] | None) -> dict[str, mx.array]:
    """Return the parameters of a module by path, or those directly in it with these names."""
    if keys is not None:
        return {key: module[key] for key in keys}
    values: Any = tree_flatten(module.parameters())
    return dict(values)


def whole_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of which copies are kept, by path."""
    return {path: each for path, each in model.named_modules() if copies_of(each) is not None}


def whole_values(module: nn.Module, name: str) -> dict[str, mx.array] | None:
    """Return an adapter's values of a module; None if it has none."""
    copies = copies_of(module)
    if copies is None or name not in copies.by_adapter:
        return None
    return values_of(module, copies.keys) if copies.active == name else copies.by_adapter[name]


def activate_whole(module: nn.Module, names: tuple[str, ...]) -> None:
    """Give a module the values of the adapter in `names` that has some, or its original ones."""
    copies = copies_of(module)
    assert copies is not None
    chosen = next((name for name in names if name in copies.by_adapter), None)
    if copies.active is not None:
        copies.by_adapter[copies.active] = values_of(module, copies.keys)
    values = copies.original if chosen is None else copies.by_adapter[chosen]
    module.update(tree_unflatten(list(values.items())))
    copies.active = chosen
    trainable = chosen is not None and copies.trainable[chosen]
    change = module.unfreeze if trainable else module.freeze
    if copies.keys is None:
        change()
    else:
        change(recurse=False, keys=list(copies.keys))


def forget_whole(module: nn.Module, name: str) -> None:
    """Remove an adapter's values of a module, which must not be the active ones."""
    copies = copies_of(module)
    if copies is not None:
        copies.by_adapter.pop(name, None)
        copies.trainable.pop(name, None)
        if not copies.by_adapter:
            del module._whole


def modules_with_bias(model: nn.Module, adapted_only: bool) -> list[nn.Module]:
    """Return the modules with a `bias`, outside of adapters; or only the adapted layers."""
    if adapted_only:
        layers = [each.base_layer for each in model.modules() if isinstance(each, AdaptedLayer)]
        return [each for each in layers if "bias" in each]
    inside = {id(part) for each in model.modules() if isinstance(each, AdaptedLayer)
              for adapter in each.known.values() for part in adapter.modules()}  # fmt: skip
    return [each for each in model.modules() if "bias" in each and id(each) not in inside]
