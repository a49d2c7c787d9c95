"""LoRA and DoRA of one- and two-dimensional convolutions."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_lora.config import LoraConfig
from mlx_lora.layers import Dropout, Parts, changed_norms, row_norms_squared


class ConvolutionLora(nn.Module):
    """A convolution A to r channels in the shape of the layer's, then B (out, r) on the channels.

    Inside, A is (r, *kernel, in) and B (out, r), as MLX has channels last; PEFT's tensors are
    (r, in, *kernel), (out, r, 1, ...), and the magnitude (1, out, 1, ...).
    """

    def __init__(self, base: Any, config: LoraConfig, path: str, reason: str):
        super().__init__()
        rows, *kernel, channels = base.weight.shape
        rank = config.rank_of(path)
        self.config, self.reason = config, reason
        self._kernel_axes = len(kernel)
        self.lora_A = mx.zeros((rank, *kernel, channels))
        self.lora_B = mx.zeros((rows, rank))
        if config.lora_bias:
            self.lora_B_bias = mx.zeros((rows,))
        self._scale = mx.array(float(config.scale_of(path)))
        Dropout.set(self, config.lora_dropout)

    def __call__(self, base: Any, x: mx.array, y: mx.array) -> mx.array:
        """Return the adapted output for the input `x` and output `y` of `base`."""
        dropped = Dropout.apply(self, x.astype(self.lora_A.dtype))
        update = (self._scale * convolve(base, dropped, self.lora_A)) @ self.lora_B.T
        if "lora_B_bias" in self:
            update = update + self._scale * self.lora_B_bias
        if "lora_magnitude_vector" not in self:
            return (y + update).astype(y.dtype)
        ratio = self.lora_magnitude_vector / mx.stop_gradient(self._norms(base))
        is_dropped = self.training and "_keep" in self
        plain = base(dropped) if is_dropped else y
        if (bias := base.get("bias")) is not None:
            plain = plain - bias
        return (y + (ratio - 1) * plain + ratio * update).astype(y.dtype)

    def _norms(self, base: Any) -> mx.array:
        a, b = mx.stop_gradient(self.lora_A).flatten(1), mx.stop_gradient(self.lora_B)
        product = a @ base.weight.flatten(1).T
        return changed_norms(self._squared, product, a @ a.T, b, self._scale)

    def start_magnitude(self, base: Any) -> None:
        """Set the magnitude of DoRA to the lengths of the adapted filters."""
        self._squared = row_norms_squared(base.weight.flatten(1))
        self.lora_magnitude_vector = self._norms(base)

    def delta(self) -> mx.array:
        """Return the change of the weight, in its layout, float32."""
        a, b = self.lora_A.astype(mx.float32), self.lora_B.astype(mx.float32)
        return self._scale * (b @ a.flatten(1)).reshape(-1, *a.shape[1:])

    def merged(self, weight: mx.array, bias: mx.array | None) -> tuple[mx.array, mx.array | None]:
        """Return the float32 weight and bias of a convolution that does the same alone."""
        weight, ratio = weight + self.delta(), mx.array(1.0)
        if "lora_magnitude_vector" in self:
            ratio = self.lora_magnitude_vector / mx.sqrt(row_norms_squared(weight.flatten(1)))
            weight = ratio.reshape(-1, *[1] * (weight.ndim - 1)) * weight
        if "lora_B_bias" in self:
            added = ratio * self._scale * self.lora_B_bias
            bias = added if bias is None else bias.astype(mx.float32) + added
        return weight, bias

    def parts(self, base: Any) -> Parts:
        """Return what it does to the layer `base`."""
        added = self._scale * self.lora_B_bias if "lora_B_bias" in self else None
        is_dora = "lora_magnitude_vector" in self
        ratio = self.lora_magnitude_vector / self._norms(base) if is_dora else None
        return Parts(self.lora_A, self._scale * self.lora_B, added, ratio)

    def tensors(self) -> dict[str, mx.array]:
        """Return the tensors by PEFT's names, channels first."""
        ones = [1] * self._kernel_axes
        found = {
            "lora_A.weight": mx.moveaxis(self.lora_A, -1, 1),
            "lora_B.weight": self.lora_B.reshape(*self.lora_B.shape, *ones),
        }
        if "lora_B_bias" in self:
            found["lora_B.bias"] = self.lora_B_bias
        if "lora_magnitude_vector" in self:
            found["lora_magnitude_vector"] = self.lora_magnitude_vector.reshape(1, -1, *ones)
        return found

    def place(self, tensors: Mapping[str, mx.array]) -> None:
        """Take tensors as `tensors` returns them."""
        self.lora_A = mx.contiguous(mx.moveaxis(tensors["lora_A.weight"], 1, -1))
        self.lora_B = tensors["lora_B.weight"].flatten(1)
        if "lora_B.bias" in tensors:
            self.lora_B_bias = tensors["lora_B.bias"]
        if "lora_magnitude_vector" in tensors:
            self.lora_magnitude_vector = tensors["lora_magnitude_vector"].flatten()


def convolve(base: Any, x: mx.array, weight: mx.array) -> mx.array:
    """Convolve with another weight, as the layer `base` does."""
    function = mx.conv1d if weight.ndim == 3 else mx.conv2d
    return function(x, weight, stride=base.stride, padding=base.padding, dilation=base.dilation)
