"""LoRA and DoRA of embeddings, whose tables may be quantized or tied to the output."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_lora.config import LoraConfig
from mlx_lora.layers import Parts, changed_norms, dense_weight, row_norms_squared, sizes_of


class EmbeddingLora(nn.Module):
    """The table E (V, d) becomes E + scale * (B A)^T, with A (r, V) and B (d, r).

    As in PEFT, A begins at zero, B is random, dropout is not applied, and DoRA has one magnitude
    for each of the d columns. A tied output layer, `as_linear`, has the same adapted table.
    """

    def __init__(self, base: Any, config: LoraConfig, path: str, reason: str):
        super().__init__()
        rows, width = sizes_of(base)
        rank = config.rank_of(path)
        self.config, self.reason = config, reason
        self.lora_embedding_A = mx.zeros((rank, rows))
        self.lora_embedding_B = mx.zeros((width, rank))
        self._scale = mx.array(float(config.scale_of(path)))

    def __call__(self, base: Any, x: mx.array, y: mx.array) -> mx.array:
        """Return the adapted embeddings of the ids `x`, where `y` are those of `base`."""
        picked = mx.moveaxis(mx.take(self.lora_embedding_A, x, axis=1), 0, -1)  # (..., r)
        changed = y + (self._scale * picked) @ self.lora_embedding_B.T
        return (changed * self._ratio(base)).astype(y.dtype)

    def as_linear(self, base: Any, x: mx.array, y: mx.array) -> mx.array:
        """Return the adapted scores, where `y` = x E^T are those of `base`."""
        x = x.astype(self.lora_embedding_A.dtype)
        if "lora_magnitude_vector" in self:
            x = x * self._ratio(base)
            y = base.as_linear(x)
        added = (self._scale * (x @ self.lora_embedding_B)) @ self.lora_embedding_A
        return (y + added).astype(y.dtype)

    def _ratio(self, base: Any) -> mx.array:
        if "lora_magnitude_vector" not in self:
            return mx.array(1.0, self.lora_embedding_A.dtype)
        return self.lora_magnitude_vector / mx.stop_gradient(self._norms(base))

    def _norms(self, base: Any) -> mx.array:
        a, b = mx.stop_gradient(self.lora_embedding_A), mx.stop_gradient(self.lora_embedding_B)
        a, b = a.astype(mx.float32), b.astype(mx.float32)
        product = a @ dense_weight(base)  # (r, d)
        return changed_norms(self._squared, product, a @ a.T, b, self._scale)

    def start_magnitude(self, base: Any) -> None:
        """Set the magnitude of DoRA to the lengths of the adapted columns."""
        self._squared = row_norms_squared(dense_weight(base).T)
        self.lora_magnitude_vector = self._norms(base)

    def delta(self) -> mx.array:
        """Return scale * (B A)^T (V, d), float32."""
        a, b = self.lora_embedding_A, self.lora_embedding_B
        return self._scale * (a.astype(mx.float32).T @ b.astype(mx.float32).T)

    def merged(self, weight: mx.array, bias: mx.array | None) -> tuple[mx.array, mx.array | None]:
        """Return the float32 table that does the same alone."""
        weight = weight + self.delta()
        if "lora_magnitude_vector" in self:
            weight = weight * (self.lora_magnitude_vector / mx.sqrt(row_norms_squared(weight.T)))
        return weight, bias

    def parts(self, base: Any) -> Parts:
        """Return what it does to the table of `base`."""
        ratio = self._ratio(base) if "lora_magnitude_vector" in self else None
        return Parts(self.lora_embedding_A, self._scale * self.lora_embedding_B, ratio=ratio)

    def tensors(self) -> dict[str, mx.array]:
        """Return the tensors by PEFT's names."""
        names = ("lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
        return {name: self[name] for name in names if name in self}

    def place(self, tensors: Mapping[str, mx.array]) -> None:
        """Take tensors as `tensors` returns them."""
        for name, array in tensors.items():
            self[name] = array
