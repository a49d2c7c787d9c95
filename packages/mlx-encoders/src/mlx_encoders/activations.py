"""Activation functions by their Hugging Face names."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders._suggest import did_you_mean


def get_activation(name: str) -> Callable[[mx.array], mx.array]:
    """Return the activation of a Hugging Face config's name; an unknown one is a `ValueError`."""
    if name not in _NAMES:
        raise ValueError(f"unknown activation {name!r}{did_you_mean(name, _NAMES)}")
    # Looked up at every call, so that what replaces MLX's function reaches models already made.
    return lambda x: getattr(nn, _NAMES[name])(x)


_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_approx",
    "gelu_pytorch_tanh": "gelu_approx",
    "relu": "relu",
    "silu": "silu",
}
