"""LoRA and DoRA of linear layers, whose weights may be quantized."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_lora.config import LoraConfig
from mlx_lora.layers import (
    Dropout,
    Factor,
    Parts,
    changed_norms,
    dense_weight,
    row_norms_squared,
    sizes_of,
)


class LinearLora(nn.Module):
    """y = W x + b + scale * B A x; with DoRA V = W + scale * B A and y = m / |V| * V x + b.

    |V| are the lengths of V's rows. They count as constants in the gradient (section 4.3 of the
    DoRA paper), and come from products with A and B: neither B A nor V is ever computed.

    With an initialization from the weights, whose B A is not zero, the start is subtracted again:
    B A stands for B A - B0 A0. So W never changes.
    """

    def __init__(self, base: Any, config: LoraConfig, path: str, reason: str):
        super().__init__()
        rows, columns = sizes_of(base)
        rank = config.rank_of(path)
        self.config, self.reason = config, reason
        self.lora_A = Factor(columns, rank, bias=False)
        self.lora_B = Factor(rank, rows, bias=config.lora_bias)
        if config.lora_bias:
            self.lora_B.bias = mx.zeros((rows,))
        self._scale = mx.array(float(config.scale_of(path)))
        Dropout.set(self, config.lora_dropout)

    def __call__(self, base: Any, x: mx.array, y: mx.array) -> mx.array:
        """Return the adapted output for the input `x` and output `y` of `base`."""
        x = x.astype(self.lora_A.weight.dtype)
        dropped = Dropout.apply(self, x)
        if "lora_magnitude_vector" not in self:
            return (y + self._update(dropped)).astype(y.dtype)
        ratio = self.lora_magnitude_vector / mx.stop_gradient(self._norms(base))
        bias = base.get("bias")
        if dropped is x:
            changed = ratio * (y + self._update(x))
            return (changed if bias is None else changed + (1 - ratio) * bias).astype(y.dtype)
        # As in PEFT: with dropout the change of W x is computed from the dropped input too.
        plain = base(dropped) if bias is None else base(dropped) - bias
        return (y + (ratio - 1) * plain + ratio * self._update(dropped)).astype(y.dtype)

    def _update(self, x: mx.array) -> mx.array:
        if "bias" in self.lora_B:
            found = self._scale * self.lora_B(self.lora_A(x))
        else:
            found = self.lora_B(self._scale * self.lora_A(x))
        if "_start" in self:
            found = found - (self._scale * (x @ self._start[0].T)) @ self._start[1].T
        return found

    def subtract_start(self) -> None:
        """Begin with no change of W: subtract the present B A from now on."""
        self._start = [self.lora_A.weight, self.lora_B.weight]

    def factors(self) -> tuple[mx.array, mx.array]:
        """Return A and B, float32, whose product is the whole change of W; of twice the rank if
        the start is subtracted."""
        a, b = self.lora_A.weight, self.lora_B.weight
        if "_start" in self:
            a = mx.concatenate([a, self._start[0]], axis=0)
            b = mx.concatenate([b, -self._start[1]], axis=1)
        return a.astype(mx.float32), b.astype(mx.float32)

    def _norms(self, base: Any) -> mx.array:
        a, b = map(mx.stop_gradient, self.factors())
        product = base(a)  # (r, out): A W^T, with the layer's own kernel
        if (bias := base.get("bias")) is not None:
            product = product - bias
        return changed_norms(self._squared, product, a @ a.T, b, self._scale)

    def start_magnitude(self, base: Any) -> None:
        """Set the magnitude of DoRA to the lengths of V's rows, so that y begins as W x + b."""
        self._squared = row_norms_squared(dense_weight(base))
        self.lora_magnitude_vector = self._norms(base)

    def delta(self) -> mx.array:
        """Return scale * B A (out, in), float32."""
        a, b = self.factors()
        return self._scale * (b @ a)

    def merged(self, weight: mx.array, bias: mx.array | None) -> tuple[mx.array, mx.array | None]:
        """Return the float32 weight and bias of a linear layer that does the same alone."""
        weight = weight + self.delta()
        ratio = mx.array(1.0)
        if "lora_magnitude_vector" in self:
            ratio = self.lora_magnitude_vector / mx.sqrt(row_norms_squared(weight))
            weight = ratio[:, None] * weight
        if "bias" in self.lora_B:
            added = ratio * self._scale * self.lora_B.bias
            bias = added if bias is None else bias.astype(mx.float32) + added
        return weight, bias

    def parts(self, base: Any) -> Parts:
        """Return what it does to the layer `base`."""
        a, b = self.factors()
        added = self._scale * self.lora_B.bias if "bias" in self.lora_B else None
        is_dora = "lora_magnitude_vector" in self
        ratio = self.lora_magnitude_vector / self._norms(base) if is_dora else None
        return Parts(a, self._scale * b, added, ratio)

    def tensors(self) -> dict[str, mx.array]:
        """Return the tensors by PEFT's names."""
        found = {"lora_A.weight": self.lora_A.weight, "lora_B.weight": self.lora_B.weight}
        if "bias" in self.lora_B:
            found["lora_B.bias"] = self.lora_B.bias
        if "lora_magnitude_vector" in self:
            found["lora_magnitude_vector"] = self.lora_magnitude_vector
        return found

    def place(self, tensors: Mapping[str, mx.array]) -> None:
        """Take tensors as `tensors` returns them."""
        self.lora_A.weight, self.lora_B.weight = tensors["lora_A.weight"], tensors["lora_B.weight"]
        if "lora_B.bias" in tensors:
            self.lora_B.bias = tensors["lora_B.bias"]
        if "lora_magnitude_vector" in tensors:
            self.lora_magnitude_vector = tensors["lora_magnitude_vector"]
