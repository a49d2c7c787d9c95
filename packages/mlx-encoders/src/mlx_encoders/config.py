"""Common parts of config classes: Hugging Face dicts, checks, activation functions by name."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders._suggest import did_you_mean

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_approx",
    "gelu_pytorch_tanh": "gelu_approx",
    "relu": "relu",
    "silu": "silu",
}


def select_fields(cls: type, values: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of `cls` in `values`; raises `ValueError` for a wrong type."""
    known = {field.name: field.type for field in fields(cls) if field.name in values}
    for name, kind in known.items():
        if not isinstance(values[name], _accepted_types(kind)):
            expected = kind.__name__ if isinstance(kind, type) else str(kind)
            raise ValueError(
                f"config has {name}={values[name]!r}, which must be of type {expected}"
            )
    return {name: values[name] for name in known}


def check_allowed(values: Mapping[str, object], allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise `ValueError` for a key of `values` whose value this package does not support."""
    for key, valid in allowed.items():
        if key in values and values[key] not in valid:
            expected = " or ".join(repr(value) for value in valid)
            raise ValueError(
                f"config has {key}={values[key]!r}, which this package does not support; "
                f"it needs {key}={expected}"
            )


def check_sizes(**sizes: int) -> None:
    """Raise `ValueError` unless all sizes are positive and the heads divide the hidden size."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden % heads:
        raise ValueError(
            f"hidden_size must be a multiple of num_attention_heads, got {hidden} and {heads}"
        )


def get_activation(name: str) -> Callable[[mx.array], mx.array]:
    """Return the activation with this Hugging Face name; raises `ValueError` for unknown names."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}{did_you_mean(name, _ACTIVATIONS)}")
    # Looked up at every call, so that a patched function also affects existing models.
    return lambda x: getattr(nn, _ACTIVATIONS[name])(x)


def _accepted_types(kind: Any) -> tuple[type, ...]:
    """Return the types that JSON may have for a field: an integer is a valid float."""
    kinds = [get_origin(each) or each for each in get_args(kind) or (kind,) if each is not Ellipsis]
    if get_origin(kind) is tuple:
        kinds = [tuple]
    return tuple(kinds + [int] * (float in kinds) + [list] * (tuple in kinds))
