"""Presets of competitions and of users, and `config`: files of settings that load back."""

import json

import pytest
import yaml

from mlx_heads import COMPETITIONS as KNOWN
from mlx_kaggle.presets import COMPETITIONS, NAMES, read_preset
from mlx_kaggle.settings.config import RunConfig, resolve_config
from mlx_kaggle.settings.config_file import commented
from mlx_kaggle.settings.config_origins import preset_problems
from mlx_trainer import ConfigError, dump_config, load_config


@pytest.mark.parametrize("name", COMPETITIONS)
def test_a_competition_asks_for_what_its_leaderboard_ranks(name):
    data = resolve_config(name).data
    slugs = {"house-prices": "house-prices-advanced-regression-techniques",
             "nlp-disaster": "nlp-getting-started"}  # fmt: skip
    if known := KNOWN.get(slugs.get(str(data.competition), str(data.competition))):
        assert (data.task, data.metric) == (known.task, known.metric)
    assert all((data.target, data.task, data.metric, read_preset(name).description))


def test_a_competition_stands_on_standard_with_an_encoder_and_else_on_quick(tmp_path):
    encoder = {"encoder.path": str(tmp_path)}
    rates = {name: resolve_config(name).training.learning_rate for name in ("quick", "standard")}
    assert resolve_config("titanic").training.learning_rate == rates["quick"]
    assert resolve_config("titanic", flags=encoder).training.learning_rate == rates["standard"]
    overrides = [f"encoder.path={tmp_path}"]
    assert resolve_config("titanic", overrides=overrides).encoder.path == str(tmp_path)
    assert resolve_config("titanic", overrides=overrides).encoder.freeze == "half"
    assert resolve_config("titanic", flags={"encoder.path": "scratch"}).encoder.freeze == "none"


def test_a_user_s_preset_stands_on_another_and_loses_to_flags(tmp_path):
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text("base: titanic\ntraining: {epochs: 3, batch_size: 4}\n")
    above.write_text(f"base: {below}\ndescription: ours\ntraining: {{epochs: 2}}\n")
    config = resolve_config(str(above), flags={"training.batch_size": 7})
    assert config.preset == str(above)
    assert (config.training.epochs, config.training.batch_size) == (2, 7)
    assert config.data.metric == "accuracy"
    assert config.text.max_tokens == resolve_config("quick").text.max_tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nope\n", "unknown preset 'nope'"),
        ("base: FILE\n", "base: the presets FILE stand on each other"),
        ("- 1\n", "must contain keys and values, got list"),
        ("training: {epochs: 0}\n", "FILE:1: training.epochs: must be at least 1, got 0"),
        ("base: quick\n\ntrain: {}\n", "FILE:3: train: unknown key; did you mean 'training'?"),
        ("a: [\n", "FILE: cannot be read"),
    ],
)
def test_a_wrong_preset_names_file_and_line(text, message, tmp_path, run_cli):
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("FILE", str(file)))
    message = message.replace("FILE", str(file))
    with pytest.raises(ConfigError) as error:
        resolve_config(str(file))
    assert message in str(error.value)
    assert message in run_cli("config", "validate", file, code=2).stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_written_file_loads_back_to_the_same_settings(name, tmp_path, run_cli):
    config = resolve_config(name)
    file = tmp_path / f"{name}.yaml"
    run_cli("config", "init", "--preset", name, "--output", file)
    assert file.read_text() == commented(config, name)
    assert load_config(RunConfig, file=file) == config
    assert resolve_config(None, file) == config
    assert preset_problems(str(file)) == []
    before = file.read_bytes()
    assert "add --overwrite" in run_cli("config", "init", "--output", file, code=2).stderr
    assert file.read_bytes() == before


def test_every_setting_has_its_meaning_in_the_file():
    text = commented(resolve_config("quick"), "quick")
    for line in ("  # Multiplier of the rate of the head. At least 0.", "  epochs: 6",
                 "  optimizer: adamw",
                 "# Adapters in a pretrained encoder, whose own weights then stay as they are.",
                 "  # val: null"):  # fmt: skip
        assert f"\n{line}\n" in text
    flat = yaml.safe_load(dump_config(RunConfig()))
    assert all(f"{key}:" in text for section in flat.values() if isinstance(section, dict)
               for key in section)  # fmt: skip


def test_shown_settings_are_those_of_a_run(run_cli):
    flags = ("--preset", "wine", "--seed", "3", "--set", "training.epochs=1")
    shown = json.loads(run_cli("config", "show", *flags, "--changed", "--json").stdout)["values"]
    assert shown["training.epochs"] == 1
    assert (shown["seed"], shown["data.metric"]) == (3, "quadratic_kappa")
    text = run_cli("config", "show", *flags).stdout
    assert load_config(RunConfig, base=yaml.safe_load(text)).training.epochs == 1


def test_every_shown_setting_names_where_it_comes_from(tmp_path, run_cli):
    preset, file = tmp_path / "mine.yaml", tmp_path / "run.yaml"
    preset.write_text("base: titanic\ntraining:\n  epochs: 3\n  batch_size: 4\n")
    file.write_text("# ours\ntraining: {batch_size: 8}\nencoder:\n  freeze: half\n")
    flags = ("--preset", preset, "--config", file, "--seed", "3", "--set", "text.digits=2",
             "--set", "options={trees: {max_depth: 3}}")  # fmt: skip
    shown = json.loads(run_cli("config", "show", *flags, "--json").stdout)
    assert set(shown["values"]) == set(shown["from"])
    expected = {
        "training.epochs": f"preset {preset} line 3",
        "training.batch_size": f"{file} line 2",
        "encoder.freeze": f"{file} line 4",
        "encoder.path": "default",
        "training.optimizer": "default",
        "data.metric": "preset titanic",
        "text.tta": "preset quick",
        "seed": "command line",
        "preset": "command line",
        "text.digits": "--set 'text.digits=2'",
        "options.trees.max_depth": "--set 'options={trees: {max_depth: 3}}'",
    }
    assert {key: shown["from"][key] for key in expected} == expected
    text = run_cli("config", "show", *flags).stdout
    assert f"  batch_size: 8  # {file} line 2\n" in text
    assert "  metric: accuracy  # preset titanic\n" in text
    loaded = load_config(RunConfig, base=yaml.safe_load(text))
    assert loaded == resolve_config(
        str(preset), file, {"seed": 3}, ["text.digits=2", "options={trees: {max_depth: 3}}"]
    )


def test_all_errors_of_a_file_are_shown_with_their_lines(tmp_path, run_cli):
    wrong, right = tmp_path / "wrong.yaml", tmp_path / "right.yaml"
    wrong.write_text(
        "base: titanic\nmembers: [text, tre]\ntrainin: {}\ndata:\n  metric: acuracy\n"
        "training:\n  epochs: 0\n  optimzer: adamw\n  epochs: 2\n"
        "options:\n  trees: {max_dept: 3}\n"
    )
    right.write_text("training: {epochs: 2}\n")
    done = run_cli("config", "validate", wrong, right, code=2)
    assert done.stderr.splitlines() == [
        f"{wrong}:2: members: unknown name 'tre'; did you mean 'trees'?",
        f"{wrong}:3: trainin: unknown key; did you mean 'training'?",
        f"{wrong}:5: data.metric: unknown name 'acuracy'; did you mean 'accuracy'?",
        f"{wrong}:8: training.optimzer: unknown key; did you mean 'optimizer'?",
        f"{wrong}:9: training.epochs: given twice, first on line 7",
        f"{wrong}:10: options: trees has no option 'max_dept'; did you mean 'max_depth'?",
        "Error: 6 errors in 1 of 2 files",
    ]
    assert done.stdout == f"{right}: all settings are valid\n"
    found = json.loads(run_cli("config", "validate", wrong, right, "--json", code=2).stdout)
    assert (found["errors"], len(found["files"][str(wrong)])) == (6, 6)
    wrong.write_text("cv: {scheme: group}\n")
    done = run_cli("config", "validate", wrong, code=2)
    assert f"{wrong}:1: cv.scheme: group needs --group COLUMN" in done.stderr


def test_presets_are_listed_and_shown(run_cli):
    found = json.loads(run_cli("presets", "list", "--json").stdout)
    assert list(found) == list(NAMES)
    assert len(run_cli("presets", "list").stdout.splitlines()) == len(NAMES)
    text = run_cli("presets", "show", "wine").stdout
    assert "metric: quadratic_kappa" in text
    assert "# stands on quick, with --encoder on standard" in text
    text = run_cli("presets", "show", "titanic").stdout
    assert "#   SibSp: siblings or spouses aboard\n" in text
    assert "# the text with --set text.style=template: '{Name}, {Sex}, travelled in" in text
    values = json.loads(run_cli("presets", "show", "wine", "--json").stdout)
    assert (values["labels"], values["template"]) == ({}, None)
    assert values["resolved"]["training"]["epochs"] == 6
    assert values["values"] == {"data": {"task": "ordinal", "metric": "quadratic_kappa",
                                         "target": "quality"}}  # fmt: skip
    assert (
        "unknown preset 'wines'; did you mean 'wine'?"
        in run_cli("presets", "show", "wines", code=2).stderr
    )


def test_a_preset_trains_without_naming_the_target(passengers, write_csv, run_cli, tiny_flags):
    train = write_csv("train.csv", passengers(60))
    done = run_cli("train", "--preset", "titanic", "--train", train, *tiny_flags, "--folds", "2",
                   "--members", "linear", "--output", "run", "--json")  # fmt: skip
    assert json.loads(done.stdout)["metric"] == "accuracy"
