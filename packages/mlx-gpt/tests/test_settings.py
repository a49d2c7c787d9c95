"""Every number in a configuration has a range."""

from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

import pytest

from mlx_gpt.training.limits import LIMITS
from mlx_gpt.training.pretrain_config import PretrainConfig
from mlx_gpt.training.rl_config import RlConfig
from mlx_gpt.training.sft_config import SftConfig


def numbers(kind):
    """Yield the names of the number fields of a configuration class."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from numbers(hint)
        elif {int, float} & {hint, *get_args(hint)}:
            yield field.name


@pytest.mark.parametrize("kind", [PretrainConfig, SftConfig, RlConfig])
def test_no_number_is_without_a_range(kind):
    found = set(numbers(kind))
    assert {"learning_rate", "device_batch_size", "seed"} <= found
    assert found <= LIMITS.keys()
