"""IA3 of linear layers: factors of their outputs or inputs."""

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_lora.config import Ia3Config
from mlx_lora.layers import Parts, sizes_of


class LinearIa3(nn.Module):
    """y = l * (W x + b), or y = W (l * x) + b for feedforward modules.

    As in PEFT, l is (out, 1), or (1, in) for feedforward modules.
    """

    def __init__(self, base: Any, config: Ia3Config, path: str, reason: str):
        super().__init__()
        rows, columns = sizes_of(base)
        self.config, self.reason = config, reason
        feedforward = is_feedforward(path, config)
        shape = (1, columns) if feedforward else (rows, 1)
        self.ia3_l = mx.ones(shape)
        self._feedforward = feedforward

    def __call__(self, base: Any, x: mx.array, y: mx.array) -> mx.array:
        """Return the adapted output; `y`, the output of `base`, is not used by feedforward modules.

        MLX computes only what is used.
        """
        factors = self.ia3_l.flatten()
        if self._feedforward:
            return base((x * factors).astype(x.dtype)).astype(y.dtype)
        return (y * factors).astype(y.dtype)

    def merged(self, weight: mx.array, bias: mx.array | None) -> tuple[mx.array, mx.array | None]:
        """Return the float32 weight and bias of a linear layer that does the same alone."""
        if not self._feedforward and bias is not None:
            bias = bias.astype(mx.float32) * self.ia3_l.flatten()
        return weight * self.ia3_l, bias

    def parts(self, base: Any) -> Parts:
        """Return what it does to the layer `base`."""
        factors = self.ia3_l.flatten()
        return Parts(inputs=factors) if self._feedforward else Parts(outputs=factors)

    def tensors(self) -> dict[str, mx.array]:
        """Return the tensors by PEFT's names."""
        return {"ia3_l": self.ia3_l}

    def place(self, tensors: Mapping[str, mx.array]) -> None:
        """Take tensors as `tensors` returns them."""
        self.ia3_l = tensors["ia3_l"]


def is_feedforward(path: str, config: Ia3Config) -> bool:
    """Whether the inputs of a module are scaled, as `feedforward_modules` says."""
    names = config.feedforward_modules
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names or ())
