"""The operators that networks are written in, and what is composed of them for any format."""

from typing import Any, Protocol

import numpy as np

Value = Any
"""An array of the graph under construction: a name in ONNX, a variable in Core ML."""


class Operations(Protocol):
    """A graph under construction: one method for each operator of the target format.

    Arrays broadcast as in NumPy. `weight`, `linear` and `layer_norm` take names of tensors.
    """

    lowest: float
    """The score of a masked key: finite in the precision of the format."""

    def has(self, name: str) -> bool:
        """Is there a tensor of this name?"""
        ...

    def weight(self, name: str) -> Value: ...
    def constant(self, value: float) -> Value: ...
    def gather(self, rows: Value, ids: Value) -> Value: ...
    def linear(self, x: Value, name: str, weight: str | None = None) -> Value:
        """`x @ W.T + b` with `name.weight`, or `weight`, and `name.bias` where that exists."""
        ...

    def layer_norm(self, x: Value, name: str, eps: float) -> Value: ...
    def activation(self, kind: str, x: Value) -> Value:
        """Apply a Hugging Face activation, or tanh, sigmoid, softplus, exp, log, cos, sin, sqrt."""
        ...

    def softmax(self, x: Value) -> Value: ...
    def add(self, a: Value, b: Value) -> Value: ...
    def subtract(self, a: Value, b: Value) -> Value: ...
    def multiply(self, a: Value, b: Value) -> Value: ...
    def divide(self, a: Value, b: Value) -> Value: ...
    def maximum(self, a: Value, b: Value) -> Value: ...
    def matmul(self, a: Value, b: Value) -> Value: ...
    def sum(self, x: Value, axis: int, keep: bool = True) -> Value: ...
    def max(self, x: Value, axis: int) -> Value:
        """Return the maximum, without the axis."""
        ...

    def where(self, mask: Value, a: Value, b: Value) -> Value: ...
    def either(self, a: Value, b: Value) -> Value: ...
    def both(self, a: Value, b: Value) -> Value: ...
    def is_zero(self, x: Value) -> Value: ...
    def within(self, a: Value, b: Value, reach: int) -> Value:
        """|a - b| <= reach, of integers."""
        ...

    def to_bool(self, x: Value) -> Value: ...
    def to_float(self, x: Value) -> Value: ...
    def split(self, x: Value, sizes: list[int]) -> list[Value]:
        """Split the last axis."""
        ...

    def concatenate(self, values: list[Value]) -> Value:
        """Join along the last axis."""
        ...

    def expand(self, x: Value, axes: list[int]) -> Value: ...
    def squeeze(self, x: Value, axis: int) -> Value: ...
    def split_heads(self, x: Value, heads: int, head_dim: int) -> Value:
        """(B, L, heads * head_dim) to (B, heads, L, head_dim)."""
        ...

    def merge_heads(self, x: Value, width: int) -> Value:
        """(B, heads, L, head_dim) to (B, L, width)."""
        ...

    def swap_last(self, x: Value) -> Value:
        """(B, heads, L, head_dim) to (B, heads, head_dim, L)."""
        ...

    def positions(self, ids: Value) -> Value:
        """Return 0 to L - 1 as integers (L,) for ids (B, L)."""
        ...

    def vector(self, values: np.ndarray) -> Value: ...
    def first_token(self, hidden: Value) -> Value:
        """(B, L, D) to (B, D)."""
        ...


def rms_norm(ops: Operations, x: Value, name: str, width: int, eps: float) -> Value:
    """Scale x (B, L, width) to a mean square of 1, times `name.weight`."""
    mean = ops.divide(ops.sum(ops.multiply(x, x), -1), ops.constant(float(width)))
    root = ops.activation("sqrt", ops.add(mean, ops.constant(eps)))
    return ops.multiply(ops.divide(x, root), ops.weight(f"{name}.weight"))


def padding_mask(ops: Operations, attention_mask: Value) -> Value:
    """Return (B, 1, 1, L): may a query attend to this key? All keys where all are padding."""
    return _never_empty(ops, ops.expand(ops.to_bool(attention_mask), [1, 2]))


def window_mask(ops: Operations, attention_mask: Value, reach: int) -> Value:
    """Return (B, 1, L, L): valid keys at most `reach` tokens away, or all keys without any."""
    positions = ops.positions(attention_mask)
    near = ops.within(ops.expand(positions, [1]), ops.expand(positions, [0]), reach)
    valid = ops.expand(ops.to_bool(attention_mask), [1, 2])
    return _never_empty(ops, ops.both(ops.expand(near, [0, 1]), valid))


def attend(ops: Operations, queries: Value, keys: Value, values: Value, mask: Value,
           head_dim: int) -> Value:  # fmt: skip
    """Scaled dot-product attention on (B, heads, L, head_dim); same shape out."""
    queries = ops.multiply(queries, ops.constant(head_dim**-0.5))
    scores = ops.matmul(queries, ops.swap_last(keys))
    scores = ops.where(mask, scores, ops.constant(ops.lowest))
    return ops.matmul(ops.softmax(scores), values)


def rotations(ops: Operations, ids: Value, head_dim: int, theta: float) -> tuple[Value, Value]:
    """Return cosines and sines (L, head_dim / 2) of rotary positions 0 to L - 1."""
    half = head_dim // 2
    speeds = theta ** (-np.arange(half) / half)
    positions = ops.to_float(ops.expand(ops.positions(ids), [1]))
    angles = ops.multiply(positions, ops.vector(speeds.astype(np.float32)))
    return ops.activation("cos", angles), ops.activation("sin", angles)


def rotate(ops: Operations, x: Value, turns: tuple[Value, Value], head_dim: int) -> Value:
    """Rotary position embeddings (Su et al. 2021) of x (B, heads, L, head_dim), by halves."""
    cos, sin = turns
    first, second = ops.split(x, [head_dim // 2] * 2)
    return ops.concatenate(
        [
            ops.subtract(ops.multiply(first, cos), ops.multiply(second, sin)),
            ops.add(ops.multiply(second, cos), ops.multiply(first, sin)),
        ]
    )


def _never_empty(ops: Operations, mask: Value) -> Value:
    return ops.either(mask, ops.is_zero(ops.sum(ops.to_float(mask), -1)))
