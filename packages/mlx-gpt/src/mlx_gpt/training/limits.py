"""The range of every number in a configuration, so that a wrong one is known before any work."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

_MOST = 2**63 - 1
_COUNTS = (
    *("depth", "sequence_len", "width_per_layer", "head_dim", "n_kv_head", "buffer_size"),
    *("steps", "epochs", "batch_tokens", "device_batch_size", "batch_size"),
    *("questions", "samples", "max_tokens", "evaluation_tokens", "sample_tokens"),
    *("evaluation_questions", "evaluation_samples", "core_max_per_task", "keep_checkpoints"),
)
_COUNTS_FROM_0 = (
    *("warmup_steps", "threads", "seed", "top_k", "unrewarded_rounds"),
    *("evaluate_every", "sample_every", "core_every", "checkpoint_every", "checkpoint_seconds"),
)
_ABOVE_0 = ("tokens_per_parameter", "learning_rate", "rate_scale", "initial_rate", "temperature")
_SHARES = ("warmdown_ratio", "final_rate")
# By the name of the setting: the least it may be, the most, and the rule in words.
LIMITS: dict[str, tuple[float, float, str]] = {
    **dict.fromkeys(_COUNTS, (1, _MOST, "at least 1")),
    **dict.fromkeys(_COUNTS_FROM_0, (0, _MOST, "0 or more")),
    **dict.fromkeys(_ABOVE_0, (math.ulp(0.0), 1e9, "above 0, up to 1e9")),
    **dict.fromkeys(_SHARES, (0, 1, "from 0 to 1")),
}


class SettingsError(ValueError):
    """A setting, or several of them together, with which no run can be made: wrong usage."""


def check_ranges(config: object) -> None:
    """Raise `SettingsError` with the dotted key of the first number out of its range.

    A setting whose default is 0 may be 0: that is its word for "what the rest asks for".
    """
    for key, value, default in _numbers(config, ""):
        least, most, rule = LIMITS[key.rpartition(".")[2]]
        if default == 0 and least > 0:
            least, rule = 0, f"{rule}, or 0"
        if value > most == _MOST:
            rule += ", below 2^63"
        if not least <= value <= most:  # NaN is in no range
            raise SettingsError(f"{key} must be {rule}, got {value}")


def _numbers(config: object, prefix: str) -> Iterator[tuple[str, float, object]]:
    """Yield the dotted key, the value and the default of each number, in order."""
    assert is_dataclass(config)
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _numbers(value, f"{prefix}{field.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{field.name}", value, field.default
