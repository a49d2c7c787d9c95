"""What the two config classes share: reading a Hugging Face dict, and refusing bad values."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin


def known_fields(cls: type, values: Mapping[str, object]) -> dict[str, object]:
    """Return the entries of `values` that are fields of `cls`, or raise where a type is wrong."""
    known = {field.name: field.type for field in fields(cls) if field.name in values}
    for name, kind in known.items():
        if not isinstance(values[name], _accepted(kind)):
            found = values[name]
            raise ValueError(f"config has {name}={found!r}, which must be of type {_named(kind)}")
    return {name: values[name] for name in known}


def _accepted(kind: Any) -> tuple[type, ...]:
    """Return the types that JSON may have for a field: integers are numbers too."""
    kinds = [get_origin(each) or each for each in get_args(kind) or (kind,) if each is not Ellipsis]
    if get_origin(kind) is tuple:
        kinds = [tuple]
    return tuple(kinds + [int] * (float in kinds) + [list] * (tuple in kinds))


def _named(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def refuse_other(values: Mapping[str, object], allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise `ValueError` where a key of `values` has a value this package does not compute."""
    for key, valid in allowed.items():
        if key in values and values[key] not in valid:
            expected = " or ".join(repr(value) for value in valid)
            raise ValueError(
                f"config has {key}={values[key]!r}, which this package cannot honour; "
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
