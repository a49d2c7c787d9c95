"""The four layers of settings and what is said about a wrong one."""

import os

import pytest

from mlx_kaggle.config import PRESETS, resolve_config
from mlx_trainer import ConfigError, dump_config, load_config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves(name):
    assert resolve_config(name).preset == name


def test_later_layers_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: standard\nseed: 1\nfolds: 3\ntraining: {epochs: 7, batch_size: 4}\n")
    config = resolve_config(None, file, {"seed": 2}, ["training.batch_size=5"])
    assert config.preset == "standard"
    assert config.text.max_tokens == 128  # of the preset
    assert (config.training.epochs, config.training.batch_size) == (7, 5)
    assert (config.folds, config.seed) == (3, 2)
    assert resolve_config("quick", file).preset == "quick"


def test_flags_keep_their_types():
    kinds = {"a column: with = signs": "text"}
    config = resolve_config("quick", flags={"data.kinds": kinds, "data.target": "1", "folds": 5})
    assert config.data.kinds == kinds
    assert config.data.target == "1"
    assert config.folds == 5


def test_a_resolved_configuration_survives_its_file():
    import yaml

    config = resolve_config("thorough", flags={"data.train": "t.csv"}, overrides=["seed=3"])
    assert load_config(type(config), base=yaml.safe_load(dump_config(config))) == config


def test_muon_is_asked_for_by_flag_or_file_and_kept(tmp_path):
    import yaml

    assert all(resolve_config(name).training.optimizer == "adamw" for name in PRESETS)
    file = tmp_path / "run.yaml"
    file.write_text("training: {optimizer: muon}\n")
    config = resolve_config("standard", file)
    assert config == resolve_config("standard", flags={"training.optimizer": "muon"})
    assert load_config(type(config), base=yaml.safe_load(dump_config(config))) == config
    # Run folders from before there was a choice have no such key.
    values = yaml.safe_load(dump_config(resolve_config("standard")))
    del values["training"]["optimizer"]
    assert load_config(type(config), base=values).training.optimizer == "adamw"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training:\n  epoch: 3\n", "run.yaml:2: training.epoch: unknown key; did you mean"),
        ("preset: quik\n", "unknown preset 'quik'; did you mean 'quick'?"),
        (
            "training: {threads: 10000}\n",
            f"training.threads must be from 1 to {max(8, os.cpu_count())}, got 10000: ",
        ),
        ("folds: many\n", "run.yaml:1: folds:"),
        ("- 1\n", "must hold keys and values"),
        ("a: [1\n", "not YAML"),
    ],
)
def test_a_wrong_file_gets_one_line(text, message, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve_config(None, file)
    assert message in str(caught.value)
