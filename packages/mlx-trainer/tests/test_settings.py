import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_trainer import ConfigError, check_settings, dump_config, load_config, setting


@dataclass(frozen=True)
class Training:
    epochs: int = setting(10, "Passes over the data.", flag="--epochs", at_least=1)
    batch_tokens: int = setting(0, "Tokens an update; 0: by depth.", at_least=1, or_zero=True)
    learning_rate: float = setting(0.02, "Of the matrices.", above=0, at_most=1e9)
    warmup: float = setting(0.1, "Share of all updates.", at_least=0, at_most=1)
    dropout: float | None = setting(None, "Of hidden states.", at_least=0, below=1)
    max_grad_norm: float = setting(1.0, "Clips gradients.", above=0, infinite=True)
    prompts: list[str] = setting(["Once"], "Prompts of samples.")
    plain: int = 3


@dataclass(frozen=True)
class Config:
    data: str = setting(help="Shards.", flag="--data")
    training: Training = field(default_factory=Training)


@dataclass(frozen=True)
class Nested:
    section: Config


def load(*overrides):
    return load_config(Config, overrides=["data=x", *overrides])


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("epochs=0", "must be at least 1, got 0"),
        ("epochs=99999999999999999999", "must be below 2^63, got 99999999999999999999"),
        ("batch_tokens=-1", "must be at least 1, or 0, got -1"),
        ("learning_rate=0", "must be above 0 and at most 1000000000.0, got 0.0"),
        ("warmup=1.5", "must be from 0 to 1, got 1.5"),
        ("dropout=1", "must be at least 0 and below 1, got 1.0"),
        ("learning_rate=.inf", "must be a finite number, got inf"),
        ("max_grad_norm=.nan", "must be a number, got nan"),
    ],
)
def test_a_number_out_of_range_names_key_value_and_source(override, problem):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        load(f"training.{override}")
    assert str(caught.value) == f"override 'training.{override}': training.{key}: {problem}"
    assert caught.value.exit_code == 2


def test_what_a_range_allows_is_loaded():
    config = load("training.batch_tokens=0", "training.dropout=null", "training.max_grad_norm=.inf")
    assert (config.training.batch_tokens, config.training.dropout) == (0, None)
    assert config.training.max_grad_norm == math.inf
    assert load("training.plain=-5").training.plain == -5


def test_a_configuration_made_in_python_is_checked_by_key():
    check_settings(Config(data="x"))
    with pytest.raises(ConfigError, match=r"^training\.warmup must be from 0 to 1, got nan$"):
        check_settings(Config(data="x", training=Training(warmup=math.nan)))


def test_lists_are_not_shared_between_objects():
    Training().prompts.append("changed")
    assert Training().prompts == ["Once"]


def test_a_setting_without_a_default_is_required():
    with pytest.raises(ConfigError, match=r"^data: required, but not given$"):
        load_config(Config)
    with pytest.raises(ConfigError, match=r"^section\.data: required, but not given$"):
        load_config(Nested, base={"section": {"training": {}}})


def test_flags_come_between_file_and_overrides(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: file\ntraining: {epochs: 2, plain: 2, warmup: 0.2}\n")
    flags = {"training.plain": 4, "training.epochs": 4, "training.prompts": ["a=b: c"]}
    config = load_config(Config, file=file, flags=flags, overrides=["training.epochs=5"])
    assert (config.training.warmup, config.training.plain, config.training.epochs) == (0.2, 4, 5)
    assert config.training.prompts == ["a=b: c"]
    with pytest.raises(ConfigError, match=r"^command line: training\.warmup: must be from 0 to 1"):
        load_config(Config, file=file, flags={"training.warmup": 2.0})


@given(st.text(), st.lists(st.text()))
def test_text_in_flags_is_taken_as_it_is(data, prompts):
    config = load_config(Config, flags={"data": data, "training.prompts": prompts})
    assert config == Config(data, Training(prompts=prompts))


def test_a_dumped_configuration_is_loaded_equal(tmp_path):
    config = load("training.epochs=7")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(Config, file=tmp_path / "config.yaml") == config


def test_settings_and_the_package_import_nothing_slow():
    script = (
        "import sys; from mlx_trainer import ConfigError, setting; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"mlx", "numpy", "yaml", "rich", "click"}


def test_every_public_name_is_there():
    import mlx_trainer

    assert [name for name in mlx_trainer.__all__ if not hasattr(mlx_trainer, name)] == []
    stub = Path(mlx_trainer.__file__).with_suffix(".pyi").read_text()
    assert sorted(mlx_trainer.__all__) == sorted(eval(stub.partition("__all__ = ")[2]))
