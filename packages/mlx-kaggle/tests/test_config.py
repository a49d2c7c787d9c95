"""The four layers of settings and what is said about a wrong one."""

import os

import pytest

from mlx_kaggle.commands.train import train
from mlx_kaggle.presets import NAMES
from mlx_kaggle.settings.config import resolve_config
from mlx_trainer import ConfigError, dump_config, load_config


@pytest.mark.parametrize("name", NAMES)
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

    assert all(resolve_config(name).training.optimizer == "adamw" for name in NAMES)
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
        ("- 1\n", "must contain keys and values"),
        ("a: [1\n", "not YAML"),
    ],
)
def test_a_wrong_file_gets_one_line(text, message, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve_config(None, file)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("folds=1", "must be at least 2, or 0, got 1"),
        ("folds=-2", "must be at least 2, or 0, got -2"),
        ("val_fraction=1", "must be above 0 and below 1, got 1.0"),
        ("seed=-1", "must be from 0 to 2147483647, got -1"),
        ("data.separator=;;", "must be one character, got ';;'"),
        ("data.metric=acuracy", "unknown name 'acuracy'; did you mean 'accuracy'?"),
        ("data.metric=qwk", "unknown name 'qwk'; did you mean 'quadratic_kappa'?"),
        ("data.kinds={Age: nummeric}", None),
        ("text.tta=0", "must be at least 1, got 0"),
        ("text.digits=0", "must be at least 1, got 0"),
        ("text.max_tokens=7", "must be at least 8, got 7"),
        ("text.shuffle_columns=1.1", "must be from 0 to 1, got 1.1"),
        ("text.drop_column=-0.1", "must be from 0 to 1, got -0.1"),
        ("text.drop_token=1", "must be at least 0 and below 1, got 1.0"),
        ("text.numeric_jitter=-1", "must be at least 0, got -1.0"),
        ("encoder.dropout=1", "must be at least 0 and below 1, got 1.0"),
        ("encoder.attention_dropout=-1", "must be at least 0 and below 1, got -1.0"),
        ("encoder.vocab_size=0", "must be at least 1, got 0"),
        ("encoder.num_hidden_layers=0", "must be at least 1, got 0"),
        ("encoder.num_attention_heads=0", "must be at least 1, got 0"),
        ("encoder.intermediate_size=-1", "must be at least 1, got -1"),
        ("encoder.hidden_size=0", "must be at least 1, got 0"),
        ("encoder.hidden_size=33", "must be a multiple of num_attention_heads (2), got 33"),
        ("head.dropout=1.5", "must be at least 0 and below 1, got 1.5"),
        ("head.hidden_size=-1", "must be at least 0, got -1"),
        ("head.feature_size=0", "must be at least 1, got 0"),
        ("training.epochs=-1", "must be at least 1, got -1"),
        ("training.batch_size=0", "must be at least 1, got 0"),
        ("training.micro_batch_tokens=0", "must be at least 1, got 0"),
        ("training.learning_rate=.nan", "must be a finite number, got nan"),
        ("training.learning_rate=.inf", "must be a finite number, got inf"),
        ("training.learning_rate=0", "must be above 0, got 0.0"),
        ("training.muon_rate=-1", "must be above 0, got -1.0"),
        ("training.head_rate=-1", "must be at least 0, got -1.0"),
        ("training.weight_decay=-1", "must be at least 0, got -1.0"),
        ("training.layer_decay=0", "must be above 0 and at most 1, got 0.0"),
        ("training.layer_decay=2", "must be above 0 and at most 1, got 2.0"),
        ("training.warmup=2", "must be from 0 to 1, got 2.0"),
        ("training.max_grad_norm=0", "must be above 0, got 0.0"),
        ("loss.label_smoothing=1", "must be at least 0 and below 1, got 1.0"),
        ("loss.gamma=-1", "must be at least 0, got -1.0"),
        ("loss.delta=0", "must be above 0, got 0.0"),
        ("loss.coverage=1", "must be above 0 and below 1, got 1.0"),
        ("loss.r_drop=-1", "must be at least 0, got -1.0"),
        ("training.patience=-1", "must be at least 0, got -1"),
        ("training.seeds=0", "must be at least 1, got 0"),
        ("training.checkpoint_seconds=-1", "must be at least 0, got -1.0"),
    ],
)
def test_a_value_out_of_range_names_the_key_and_the_range(override, problem):
    with pytest.raises(ConfigError) as caught:
        resolve_config("quick", overrides=[override])
    key = override.partition("=")[0]
    if problem is None:
        key, problem = "data.kinds.Age", (
            "unknown value 'nummeric'; did you mean 'numeric'?"
            "; valid: numeric, categorical, text, date, boolean, ignored"
        )  # fmt: skip
    assert str(caught.value) == f"override {override!r}: {key}: {problem}"


def test_targets_and_order_are_checked_against_the_other_settings():
    for settings, message in (
        (
            {"target": "joy", "targets": "joy:fear"},
            "data.targets: 'joy:fear' and data.target 'joy' exclude each other; give one",
        ),
        (
            {"task": "regression", "order": ["low", "high"]},
            "data.order: is for the task ordinal, and the task is regression",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve_config("quick", flags={f"data.{key}": v for key, v in settings.items()})
        assert str(caught.value) == f"command line: {message}"
    config = resolve_config("quick", overrides=["data.order=[Fair, Very Good, '3']"])
    assert config.data.order == ("Fair", "Very Good", "3")


def test_no_clipping_is_an_infinite_norm():
    config = resolve_config("quick", overrides=["training.max_grad_norm=.inf"])
    assert config.training.max_grad_norm == float("inf")


def test_every_number_of_the_configuration_has_a_range():
    import dataclasses
    import typing

    from mlx_kaggle.settings.config import RunConfig

    def numbers(cls, path=""):
        for field in dataclasses.fields(cls):
            kind = typing.get_type_hints(cls)[field.name]
            if dataclasses.is_dataclass(kind):
                yield from numbers(kind, f"{field.name}.")
            elif kind in (int, float) or kind == float | None:
                yield f"{path}{field.name}"

    for key in numbers(RunConfig):
        with pytest.raises(ConfigError):
            resolve_config("quick", overrides=[f"{key}=-1"])


def test_scratch_means_no_pretrained_encoder_in_every_source(tmp_path):
    (tmp_path / "run.yaml").write_text("encoder: {path: scratch}\n")
    for given in (
        {"flags": {"encoder.path": "scratch"}},
        {"overrides": ["encoder.path=scratch"]},
        {"file": tmp_path / "run.yaml"},
    ):
        assert resolve_config("standard", **given).encoder.path == ""


def test_the_flags_of_train_are_these():
    options = [option for parameter in train.params for option in parameter.opts]
    assert sorted(options) == [f"--{flag}" for flag in FLAGS.split()]


# A flag is an interface: renaming a setting must not rename it unnoticed.
def test_a_shell_completes_commands():
    from click.shell_completion import BashComplete

    from mlx_kaggle.cli import cli

    complete = BashComplete(cli, {}, "mlx-kaggle", "_MLX_KAGGLE_COMPLETE")
    assert "_MLX_KAGGLE_COMPLETE=bash_complete" in complete.source()
    assert {each.value for each in complete.get_completions(["runs"], "")} >= {"list", "rm"}


FLAGS = """
    allow-leak augment blend calibration config cv cv-time dry-run encoder folds group horizon
    id json kind lookback lora loss members metric numeric-features optimizer output overwrite
    preset pseudo-labels quantize report-to resume sample-submission scheduler season seed
    separator series set target targets task test thresholds time train val workers
"""
