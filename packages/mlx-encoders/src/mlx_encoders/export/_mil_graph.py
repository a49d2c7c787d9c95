"""Networks as programs of Core ML's intermediate language, for a batch of one sequence."""

from typing import Any

import numpy as np

_UNARY = ("relu", "tanh", "sigmoid", "cos", "sin", "sqrt", "exp", "log", "softplus")


class MilOperations:
    """Operators added to the MIL program under construction; values are its variables.

    Where all inputs of an operator are constants, coremltools also computes its value.
    """

    lowest = -3e4  # float16 ends at 65504

    def __init__(self, weights: dict[str, np.ndarray], builder: Any):
        self._weights = weights
        self._mb = builder
        self._constants: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        return name in self._weights

    def weight(self, name: str) -> Any:
        if name not in self._constants:
            self._constants[name] = self._mb.const(val=self._weights[name])
        return self._constants[name]

    def constant(self, value: float) -> Any:
        return np.float32(value)

    def vector(self, values: np.ndarray) -> Any:
        return self._mb.const(val=values)

    def gather(self, rows: Any, ids: Any) -> Any:
        return self._mb.gather(x=rows, indices=ids, axis=0)

    def linear(self, x: Any, name: str, weight: str | None = None) -> Any:
        matrix = self.weight(weight or f"{name}.weight")
        bias = f"{name}.bias"
        if self.has(bias):
            return self._mb.linear(x=x, weight=matrix, bias=self.weight(bias))
        return self._mb.linear(x=x, weight=matrix)

    def layer_norm(self, x: Any, name: str, eps: float) -> Any:
        bias = f"{name}.bias"
        shift = {"beta": self.weight(bias)} if self.has(bias) else {}
        gain = self.weight(f"{name}.weight")
        return self._mb.layer_norm(x=x, axes=[-1], gamma=gain, epsilon=np.float32(eps), **shift)

    def activation(self, kind: str, x: Any) -> Any:
        if kind in _UNARY:
            return getattr(self._mb, kind)(x=x)
        if kind == "silu":  # that of MIL has no constant evaluation
            return self.multiply(x, self._mb.sigmoid(x=x))
        return self._mb.gelu(x=x, mode="EXACT" if kind == "gelu" else "TANH_APPROXIMATION")

    def softmax(self, x: Any) -> Any:
        return self._mb.softmax(x=x, axis=-1)

    def add(self, a: Any, b: Any) -> Any:
        return self._mb.add(x=a, y=b)

    def subtract(self, a: Any, b: Any) -> Any:
        return self._mb.sub(x=a, y=b)

    def multiply(self, a: Any, b: Any) -> Any:
        return self._mb.mul(x=a, y=b)

    def divide(self, a: Any, b: Any) -> Any:
        return self._mb.real_div(x=a, y=b)

    def maximum(self, a: Any, b: Any) -> Any:
        return self._mb.maximum(x=a, y=b)

    def matmul(self, a: Any, b: Any) -> Any:
        return self._mb.matmul(x=a, y=b)

    def sum(self, x: Any, axis: int, keep: bool = True) -> Any:
        return self._mb.reduce_sum(x=x, axes=[axis], keep_dims=keep)

    def max(self, x: Any, axis: int) -> Any:
        return self._mb.reduce_max(x=x, axes=[axis], keep_dims=False)

    def where(self, mask: Any, a: Any, b: Any) -> Any:
        return self._mb.select(cond=mask, a=a, b=b)

    def either(self, a: Any, b: Any) -> Any:
        return self._mb.logical_or(x=a, y=b)

    def both(self, a: Any, b: Any) -> Any:
        return self._mb.logical_and(x=a, y=b)

    def is_zero(self, x: Any) -> Any:
        return self._mb.equal(x=x, y=np.float32(0))

    def within(self, a: Any, b: Any, reach: int) -> Any:
        return self._mb.less_equal(x=self._mb.abs(x=self.subtract(a, b)), y=np.int32(reach))

    def to_bool(self, x: Any) -> Any:
        return self._mb.cast(x=x, dtype="bool")

    def to_float(self, x: Any) -> Any:
        return self._mb.cast(x=x, dtype="fp32")

    def split(self, x: Any, sizes: list[int]) -> list[Any]:
        return list(self._mb.split(x=x, split_sizes=sizes, axis=-1))

    def concatenate(self, values: list[Any]) -> Any:
        return self._mb.concat(values=values, axis=-1)

    def expand(self, x: Any, axes: list[int]) -> Any:
        return self._mb.expand_dims(x=x, axes=axes)

    def squeeze(self, x: Any, axis: int) -> Any:
        return self._mb.squeeze(x=x, axes=[axis])

    def split_heads(self, x: Any, heads: int, head_dim: int) -> Any:
        x = self._mb.reshape(x=x, shape=(1, -1, heads, head_dim))
        return self._mb.transpose(x=x, perm=[0, 2, 1, 3])

    def merge_heads(self, x: Any, width: int) -> Any:
        x = self._mb.transpose(x=x, perm=[0, 2, 1, 3])
        return self._mb.reshape(x=x, shape=(1, -1, width))

    def swap_last(self, x: Any) -> Any:
        return self._mb.transpose(x=x, perm=[0, 1, 3, 2])

    def positions(self, ids: Any) -> Any:
        shape = self._mb.shape(x=ids)
        length = self._mb.slice_by_index(x=shape, begin=[1], end=[2], squeeze_mask=[True])
        return self._mb.range_1d(start=0, end=length, step=1)

    def first_token(self, hidden: Any) -> Any:
        return self._mb.slice_by_index(
            x=hidden,
            begin=[0, 0, 0],
            end=[0, 1, 0],
            begin_mask=[True, False, True],
            end_mask=[True, False, True],
            squeeze_mask=[False, True, False],
        )
