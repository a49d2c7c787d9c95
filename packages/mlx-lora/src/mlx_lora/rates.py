"""LoRA+ (Hayou et al. 2024): B learns faster than A."""

from collections.abc import Callable
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from mlx_lora.layers import adapted_layers

Rate = float | Callable[[Any], Any]


def lora_plus_rates(
    model: nn.Module, ratio: float = 16.0, embedding_rate: float = 1.0
) -> dict[str, float]:
    """Return what to multiply the learning rate of each trained parameter with, by path.

    B, and the other parameters of an adapter with one axis, get `ratio`; matrices of embeddings get
    `embedding_rate`; A, and everything outside of adapters, 1. (PEFT sets the rate of embeddings to
    1e-6: for a rate of 2e-4 that is an `embedding_rate` of 0.005.)
    """
    if ratio < 1:
        raise ValueError(f"ratio must be at least 1, as B learns faster than A, got {ratio}")
    inside = tuple(f"{path}.adapters." for path in adapted_layers(model))
    arrays: Any = tree_flatten(model.trainable_parameters())
    found = {}
    for path, array in arrays:
        part = path.split(".adapters.")[-1]
        if not path.startswith(inside):
            found[path] = 1.0
        elif "lora_embedding" in part:
            found[path] = embedding_rate
        else:
            found[path] = ratio if "lora_B" in part or array.ndim == 1 else 1.0
    return found


def lora_plus(
    model: nn.Module,
    make_optimizer: Callable[..., optim.Optimizer],
    learning_rate: Rate,
    *,
    ratio: float = 16.0,
    embedding_rate: float = 1.0,
    **options: Any,
) -> optim.MultiOptimizer:
    """Return an optimizer with the rates of `lora_plus_rates`: one of `make_optimizer` for each.

    `learning_rate` may be a schedule. To change it later, change that of each of `.optimizers`:
    setting it on the whole makes them equal.
    """
    rates = lora_plus_rates(model, ratio, embedding_rate)
    factors = sorted(set(rates.values()))
    optimizers = [
        make_optimizer(learning_rate=_times(learning_rate, f), **options) for f in factors
    ]
    filters = [_has_rate(rates, factor) for factor in factors[:-1]]
    return optim.MultiOptimizer(optimizers, filters)


def _has_rate(rates: dict[str, float], factor: float) -> Callable[[str, Any], bool]:
    return lambda path, _: rates[path] == factor


def _times(rate: Rate, factor: float) -> Rate:
    if callable(rate):
        return lambda step: factor * rate(step)
    return factor * rate
