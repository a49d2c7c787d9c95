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


def select_labels(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the label fields of a `config.json` dict, whose keys are strings or absent.

    `id2label` determines `num_labels`, as in transformers; `label2id` is not stored twice.
    """
    names = values.get("id2label")
    if not names:
        return {}
    if not isinstance(names, Mapping):
        raise ValueError(f"config has id2label={names!r}, which must map ids to names")
    id2label = {int(key): str(names[key]) for key in sorted(names, key=int)}
    if list(id2label) != list(range(len(id2label))):
        raise ValueError(f"config has id2label with ids {list(id2label)}, expected 0 to n - 1")
    selected = {"num_labels": len(id2label)}
    return (
        selected if id2label == _default_names(len(id2label)) else selected | {"id2label": id2label}
    )


def labels_dict(num_labels: int, id2label: Mapping[int, str] | None) -> dict[str, Any]:
    """Return the label keys of a `config.json`: transformers has no `num_labels` in files."""
    if id2label is None and num_labels == 2:
        return {}  # the default
    names = id2label or _default_names(num_labels)
    return {
        "id2label": {str(index): name for index, name in names.items()},
        "label2id": {name: index for index, name in names.items()},
    }


def _default_names(num_labels: int) -> dict[int, str]:
    return {index: f"LABEL_{index}" for index in range(num_labels)}


def check_labels(num_labels: int, id2label: Mapping[int, str] | None) -> None:
    """Raise `ValueError` unless `num_labels` is positive and the number of names."""
    if num_labels < 1:
        raise ValueError(f"num_labels must be at least 1, got {num_labels}")
    if id2label and len(id2label) != num_labels:
        raise ValueError(
            f"num_labels is {num_labels}, but id2label names {len(id2label)} labels; "
            f"give both, or id2label=None"
        )


def check_allowed(values: Mapping[str, object], allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise `ValueError` for a key of `values` whose value this package does not support."""
    for key, valid in allowed.items():
        if key in values and values[key] not in valid:
            expected = " or ".join(repr(value) for value in valid)
            raise ValueError(
                f"config has {key}={values[key]!r}, which this package does not support; "
                f"it needs {key}={expected}"
            )


def check_sizes(head_dim: int | None = None, **sizes: int) -> None:
    """Raise `ValueError` unless all sizes are positive and the heads divide the hidden size.

    With `head_dim` the heads may have any size.
    """
    for name, size in (sizes | {"head_dim": head_dim or 1}).items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if head_dim is not None:
        return
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden % heads:
        raise ValueError(
            f"hidden_size must be a multiple of num_attention_heads, got {hidden} and {heads}"
        )


def drop_unset(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return `values` without `name` if it is None, so that others do not read it."""
    return {key: value for key, value in values.items() if key != name or value is not None}


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
