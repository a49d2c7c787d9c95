"""A table of what is adapted, trained and frozen, and why."""

import re
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_lora.adapters import adapter_configs
from mlx_lora.config import AdapterConfig, LoraConfig
from mlx_lora.layers import adapted_layers, sizes_of
from mlx_lora.targets import CONVOLUTIONS, EMBEDDINGS, is_linear, named_layers
from mlx_lora.weights import form_of
from mlx_lora.whole import whole_modules, whole_values


def explain(model: nn.Module) -> str:
    """Return a table: for each adapter its layers with the reason, what is saved whole; the rest.

    Layers that differ only in the number of a list are one line.
    """
    lines: list[str] = []
    configs = adapter_configs(model)
    for name, config in configs.items():
        lines += _lines_of(model, name, config)
    lines += _not_adapted(model)
    trained = sum(array.size for array in _arrays(model.trainable_parameters()).values())
    total = parameter_count(model)
    lines.append(f"trained: {trained:,} of {total:,} parameters ({trained / max(total, 1):.2%})")
    return "\n".join(lines)


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters; of quantized layers the weights that they stand for."""
    packed = 0
    for module in model.modules():
        if hasattr(module, "bits") and "scales" in module:
            rows, columns = sizes_of(module)
            overhead = module.scales.size + (0 if (b := module.get("biases")) is None else b.size)
            packed += rows * columns - module.weight.size - overhead
    return packed + sum(array.size for array in _arrays(model.parameters()).values())


def _lines_of(model: nn.Module, name: str, config: AdapterConfig) -> list[str]:
    layers = {p: each for p, each in adapted_layers(model).items() if name in each.known}
    active = any(name in each.adapters for each in layers.values())
    count = sum(_size(each.known[name].parameters()) for each in layers.values())
    settings = ""
    if isinstance(config, LoraConfig):
        ranks = {config.rank_of(path) for path in layers}
        scales = {config.scale_of(path) for path in layers}
        settings = f" r {_range(ranks)}, scale {_range(scales)}"
    state = "" if active else ", not active"
    lines = [f"{name}: {config.kind}{settings}{state}; {count:,} parameters"]
    lines += _grouped(
        (path, f"{_shape(each.base_layer)}: {each.known[name].reason}")
        for path, each in layers.items()
    )
    for path, module in whole_modules(model).items():
        if values := whole_values(module, name):
            sizes = sum(array.size for array in values.values())
            keys = "" if len(values) > 1 or "bias" not in values else ".bias"
            lines.append(f"     {path}{keys}: trained whole; {sizes:,} parameters")
    return lines


def _not_adapted(model: nn.Module) -> list[str]:
    inside, whole = adapted_layers(model), whole_modules(model)
    left = [
        (path, _shape(module)) for path, module in named_layers(model)
        if path not in inside and not any(path == p or path.startswith(f"{p}.") for p in whole)
        and (is_linear(module) or isinstance(module, EMBEDDINGS + CONVOLUTIONS))
    ]  # fmt: skip
    return ["not adapted:", *_grouped(left)] if left else []


def _grouped(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each kind of layer; the numbers of lists become a star."""
    counts: dict[str, int] = {}
    for path, text in rows:
        text = re.sub(r", layer \d+$", "", text)
        key = f"{re.sub(r'(?<=[.])[0-9]+(?=[.])', '*', path)} {text}"
        counts[key] = counts.get(key, 0) + 1
    return [f"     {count} x {key}" for key, count in counts.items()]


def _shape(base: Any) -> str:
    if isinstance(base, CONVOLUTIONS):
        return "x".join(map(str, base.weight.shape))
    rows, columns = sizes_of(base)
    form = form_of(base)
    return f"{rows}x{columns}" + (f" {form['bits']} bits" if form else "")


def _range(values: Iterable[float]) -> str:
    numbers = sorted(values)
    low, high = f"{numbers[0]:g}", f"{numbers[-1]:g}"
    return low if low == high else f"{low} to {high}"


def _size(parameters: Any) -> int:
    return sum(array.size for array in _arrays(parameters).values())


def _arrays(tree: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))
