"""Every number in a configuration has a range, and every setting is documented."""

from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

import pytest

from mlx_gpt.training.settings import PretrainConfig, RlConfig, SftConfig
from mlx_gpt.training.speedrun_settings import SpeedrunConfig
from mlx_trainer.settings import setting_of


def settings_of(kind):
    """Yield the type and the declared setting of each field of a configuration class."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from settings_of(hint)
        else:
            yield field.name, hint, setting_of(field)


@pytest.mark.parametrize("kind", [PretrainConfig, SftConfig, RlConfig, SpeedrunConfig])
def test_no_number_is_without_a_range(kind):
    numbers = {name: about for name, hint, about in settings_of(kind)
               if {int, float} & {hint, *get_args(hint)}}  # fmt: skip
    assert {"device_batch_size", "seed"} <= numbers.keys()
    for name, about in numbers.items():
        assert about.range.at_least is not None or about.range.above is not None, name


@pytest.mark.parametrize("kind", [PretrainConfig, SftConfig, RlConfig, SpeedrunConfig])
def test_every_setting_is_documented(kind):
    assert all(about.help for _, _, about in settings_of(kind))
