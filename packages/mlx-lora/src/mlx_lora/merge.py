"""Merge adapters into the weights of a model, and take them out again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_lora.adapters import active_adapters, check_not_merged, set_adapter
from mlx_lora.layers import AdaptedLayer, adapted_layers, dense_weight
from mlx_lora.weights import float_type, form_of, from_quantized, with_weight

_LOGGER = logging.getLogger(__name__)
_LARGE_ERROR = 0.1  # of the effect in one layer: from there a report says which, and is logged

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class MergedLayer:
    """What became of an adapter's change of one weight, delta."""

    path: str
    form: str
    """The type of the merged weight, such as "float32" or "affine 4 bits"."""
    retained: float
    """The part of delta in the change of the stored weight: their product over |delta|^2."""
    error: float
    """|stored change - delta| / |delta|."""


@dataclass(frozen=True)
class MergeReport:
    """How much of the adapters' effect the merged weights have, layer by layer."""

    layers: tuple[MergedLayer, ...]

    @property
    def retained(self) -> float:
        """The mean over the layers; 1 if all of the effect survived."""
        return sum(each.retained for each in self.layers) / max(len(self.layers), 1)

    @property
    def error(self) -> float:
        """The largest error of a layer."""
        return max((each.error for each in self.layers), default=0.0)

    def __str__(self) -> str:
        forms = ", ".join(dict.fromkeys(each.form for each in self.layers))
        text = (
            f"merged into {len(self.layers)} layers ({forms}): {self.retained:.1%} of the "
            f"adapter's effect survives, error at most {self.error:.2g} of it"
        )
        if self.error > _LARGE_ERROR:
            worst = max(self.layers, key=lambda each: each.error)
            advice = "merge with requantize=False" if "bits" in worst.form else "merge in float32"
            text += (
                f"; in {worst.path} rounding is as large as {worst.error:.0%} of the effect: "
                f"{advice}, or keep the adapter apart"
            )
        return text


def merge(
    model: nn.Module, names: str | Sequence[str] | None = None, *, requantize: bool = False
) -> MergeReport:
    """Put the effect of adapters into the weights, in place; `unmerge` undoes it, exactly.

    None are the active ones; others become active. Quantized layers become float layers, in the
    type of their scales, because rounding to a few bits again loses most of a small adapter; with
    `requantize` they are quantized as before. Either way the report says what survived. The
    original weights are kept for `unmerge`, so the memory of these layers doubles;
    `merge_and_unload` keeps none.

    Raises `ValueError` for unknown names, no active adapter, and a model that is merged already.
    """
    layers = adapted_layers(model)
    check_not_merged(layers)
    if names is not None:
        set_adapter(model, names)
    chosen = active_adapters(model)
    if not chosen:
        raise ValueError("the model has no active adapter to merge; name one, or use set_adapter")
    found = []
    for path, layer in layers.items():
        if layer.adapters:
            found.append(_merge_layer(path, layer, chosen, requantize))
    report = MergeReport(tuple(found))
    if report.error > _LARGE_ERROR:
        _LOGGER.warning("%s", report)
    return report


def unmerge(model: nn.Module) -> None:
    """Undo `merge`: the weights are those before it, bit for bit, and the adapters are active."""
    layers = adapted_layers(model)
    names = next((each._outside.merged for each in layers.values() if each._outside.merged), ())
    if not names:
        raise ValueError("the model is not merged")
    for layer in layers.values():
        outside = layer._outside
        if outside.merged:
            layer.base_layer, outside.base_layer, outside.merged = outside.base_layer, None, ()
    set_adapter(model, names)


def merge_and_unload(
    model: M, names: str | Sequence[str] | None = None, *, requantize: bool = False
) -> tuple[M, MergeReport]:
    """Merge, and remove all adapters: the model has plain layers again, of its former paths.

    Whole modules keep the values of the merged adapter. See `merge` for quantized layers.
    """
    report = merge(model, names, requantize=requantize)
    for path, layer in adapted_layers(model).items():
        base = layer.base_layer
        base.unfreeze()  # of a quantized layer MLX keeps the integers frozen
        model.update_modules(tree_unflatten([(path, base)]))
    for module in model.modules():
        module.__dict__.pop("_whole", None)
    return model, report


def _merge_layer(
    path: str, layer: AdaptedLayer, names: tuple[str, ...], requantize: bool
) -> MergedLayer:
    base: Any = layer.base_layer
    before = dense_weight(base)
    weight, bias = before, base.get("bias")
    for adapter in layer.adapters.values():
        weight, bias = adapter.merged(weight, bias)
    form = form_of(base)
    if form is not None and requantize:
        merged = from_quantized(base, mx.quantize(weight.astype(float_type(base)), **form), form)
        if bias is not None:
            merged.bias = bias.astype(float_type(base))
        text = f"{form['mode']} {form['bits']} bits"
    else:
        merged = with_weight(base, weight, bias)
        text = str(merged.weight.dtype).rpartition(".")[2]
    merged.freeze()
    merged.train(layer.training)
    delta, change = weight - before, dense_weight(merged) - before
    size = mx.maximum(mx.square(delta).sum(), 1e-30)
    retained = (change * delta).sum() / size
    error = mx.sqrt(mx.square(change - delta).sum() / size)
    mx.eval(merged.parameters(), retained, error)
    outside = layer._outside
    outside.base_layer, layer.base_layer, outside.merged = base, merged, names
    outside.adapters, layer.adapters = layer.known, {}
    is_zero = float(size) <= 1e-30
    return MergedLayer(
        path, text, 1.0 if is_zero else float(retained), 0.0 if is_zero else float(error)
    )
