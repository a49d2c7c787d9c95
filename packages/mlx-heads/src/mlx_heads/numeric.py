"""Numeric columns beside the text."""

import math

import mlx.core as mx
import mlx.nn as nn


def uniform_linear(inputs: int, outputs: int, key: mx.array) -> nn.Linear:
    """Return a linear layer drawn from `key`: weights uniform in 1/sqrt(inputs), bias zero."""
    layer = nn.Linear(inputs, outputs)
    bound = 1.0 / math.sqrt(inputs)
    layer.weight = mx.random.uniform(-bound, bound, (outputs, inputs), key=key)
    layer.bias = mx.zeros((outputs,))
    return layer


class NumericBranch(nn.Module):
    """(B, num_features) standardized numbers to (B, size): linear, SiLU, dropout, linear.

    No LayerNorm: over a handful of columns it would erase the scale that carries the information.
    Fill missing values before; a NaN feature gives a NaN output.
    """

    def __init__(self, num_features: int, size: int = 64, *, dropout: float = 0.1, seed: int = 0):
        super().__init__()
        keys = mx.random.split(mx.random.key(seed), 2)
        self.input = uniform_linear(num_features, size, keys[0])
        self.dropout = nn.Dropout(dropout)
        self.output = uniform_linear(size, size, keys[1])

    def __call__(self, features: mx.array) -> mx.array:
        """Return (B, size)."""
        return self.output(self.dropout(nn.silu(self.input(features))))
