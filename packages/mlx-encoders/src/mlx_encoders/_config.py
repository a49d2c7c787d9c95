"""What the two config classes share: reading a Hugging Face dict, and refusing bad values."""

from collections.abc import Mapping
from dataclasses import fields


def known_fields(cls: type, values: Mapping[str, object]) -> dict[str, object]:
    """Return the entries of `values` that are fields of the dataclass `cls`."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


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
