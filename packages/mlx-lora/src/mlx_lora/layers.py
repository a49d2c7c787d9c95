"""A layer with adapters around it, and what all kinds of adapters share."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn


@dataclass(frozen=True)
class Parts:
    """What an adapter does to y = W x + b, for batches that mix adapters.

    y becomes `outputs` * (`ratio` * (W (`inputs` * x) + `up` `down` x + `added`) + b).
    """

    down: mx.array | None = None
    """(r, in), (r, *kernel, in), or of embeddings (r, V)."""
    up: mx.array | None = None
    """(out, r), with the scale."""
    added: mx.array | None = None
    ratio: mx.array | None = None
    outputs: mx.array | None = None
    inputs: mx.array | None = None


def plain_tensors(adapter: Any) -> dict[str, mx.array]:
    """Return the tensors of an adapter; of twice the rank, if its start is subtracted."""
    found = adapter.tensors()
    if "_start" in adapter:
        found |= dict(zip(("lora_A.weight", "lora_B.weight"), adapter.factors(), strict=True))
    return found


class Outside:
    """Holds what must be no part of a model's arrays: `mx.compile` and optimizers do not see it."""

    def __init__(self) -> None:
        self.adapters: dict[str, Any] = {}
        """Those that are not active."""
        self.merged: tuple[str, ...] = ()
        self.base_layer: Any = None
        """The layer before a merge."""


class AdaptedLayer(nn.Module):
    """A layer and its active adapters; without one it is the layer.

    Inactive adapters are kept outside of the module's arrays. So a compiled function that captures
    the model's state sees other arrays after a switch, of equal shapes or not, and is right in
    both cases.
    """

    base_layer: Any
    rows: Any
    """Of a batch that mixes adapters, see `MixedAdapters`; only present within its block."""

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer
        self.adapters: dict[str, Any] = {}
        self._outside = Outside()
        self.train(base_layer.training)

    def __call__(self, x: mx.array) -> mx.array:
        """Return the output of the layer, changed by each active adapter in turn."""
        if "rows" in self:
            return self.rows(self.base_layer, x)
        y = self.base_layer(x)
        for adapter in self.adapters.values():
            y = adapter(self.base_layer, x, y)
        return y

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the product with the transposed table of an embedding: a tied output layer."""
        if "rows" in self:
            return self.rows.as_linear(self.base_layer, x)
        y = self.base_layer.as_linear(x)
        for adapter in self.adapters.values():
            y = adapter.as_linear(self.base_layer, x, y)
        return y

    def __getattr__(self, key: str) -> Any:
        if key in ("weight", "scales", "biases"):
            raise AttributeError(
                f"an adapted layer has no {key}, which would be that without the adapter: call the "
                f"layer, or use base_layer.{key}, or merge"
            )
        return super().__getattr__(key)

    @property
    def known(self) -> dict[str, Any]:
        """All adapters by name, active or not."""
        return {**self._outside.adapters, **self.adapters}

    def activate(self, names: tuple[str, ...]) -> None:
        """Make the adapters of these names the active ones, in this order."""
        known = self.known
        for name in names:
            if name in known:
                known[name].train(self.training)
        self.adapters = {name: known[name] for name in names if name in known}
        self._outside.adapters = {n: each for n, each in known.items() if n not in self.adapters}

    def forget(self, name: str) -> None:
        """Remove one adapter."""
        self.adapters.pop(name, None)
        self._outside.adapters.pop(name, None)


class Factor(nn.Linear):
    """One of the two matrices of an adapter; `nn.quantize` leaves it as it is."""

    @property
    def to_quantized(self) -> Any:  # type: ignore[override]
        """Absent: MLX quantizes the modules that have this method."""
        raise AttributeError("the matrices of an adapter are not quantized")


class Dropout:
    """Dropout whose probability is an array of the model, so that a switch needs no compilation."""

    @staticmethod
    def set(module: nn.Module, probability: float) -> None:
        """Give an adapter this dropout; without one it holds no array for it."""
        if probability > 0:
            module._keep = mx.array(1 - probability)

    @staticmethod
    def apply(module: nn.Module, x: mx.array) -> mx.array:
        """Drop entries of `x` in training."""
        if not (module.training and "_keep" in module):
            return x
        share = module["_keep"]
        kept = mx.random.bernoulli(share, x.shape)
        return mx.where(kept, x / share.astype(x.dtype), mx.zeros((), x.dtype))


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Return the adapted layers by path."""
    found = {path: each for path, each in model.named_modules() if isinstance(each, AdaptedLayer)}
    return dict(sorted(found.items(), key=lambda item: _by_number(item[0])))


def _by_number(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def dense_weight(base: Any) -> mx.array:
    """Return the float32 weight of a layer, in MLX's layout; dequantized if need be."""
    weight = base.weight
    if hasattr(base, "bits"):
        weight = mx.dequantize(
            weight,
            scales=base.scales,
            biases=base.get("biases"),
            group_size=base.group_size,
            bits=base.bits,
            mode=base.mode,
        )
    return weight.astype(mx.float32)


def sizes_of(base: Any) -> tuple[int, int]:
    """Return the rows and columns of a layer's matrix, quantized or not."""
    rows, columns = base.weight.shape
    return rows, columns * 32 // base.bits if hasattr(base, "bits") else columns


def row_norms_squared(matrix: mx.array) -> mx.array:
    """Return the squared length of each row, float32."""
    return mx.square(matrix.astype(mx.float32)).sum(1)


def changed_norms(
    squared: mx.array, product: mx.array, gram: mx.array, b: mx.array, scale: mx.array
) -> mx.array:
    """Return the lengths of the rows of V = W + scale * B A without computing V.

    `squared` (out,) are the squared lengths of W's rows, `product` (r, out) is A W^T, `gram` (r, r)
    is A A^T, b (out, r). From |w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b A A^T b^T.
    """
    cross = (b * product.T).sum(1)
    own = ((b @ gram) * b).sum(1)
    total = squared + 2 * scale * cross + mx.square(scale) * own
    return mx.sqrt(mx.maximum(total, 1e-12 * squared + 1e-30))
