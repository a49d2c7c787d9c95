"""Soups of epochs, and the preset of a run that names none."""

import logging
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_kaggle.members.soup import FILES, Soup
from mlx_kaggle.members.text import HELD_OUT, Experiment
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.settings.default_preset import choose_preset, last_encoder, remember_encoder
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import prepare_job
from mlx_trainer import ConfigError

PROSE = "the river rose over the bridge again last night"


def line(weight: float) -> nn.Module:
    model = nn.Linear(1, 1)
    model.weight, model.bias = mx.array([[weight]]), mx.array([0.0])
    return model


def test_a_soup_is_the_mean_of_the_weights_of_its_epochs(tmp_path):
    model = line(0.0)
    soup = Soup(tmp_path, model)
    for epoch, weight in enumerate((1.0, 2.0, 6.0)):
        model.weight = mx.array([[weight]])
        soup.keep(epoch)
    soup.mix([1, 2])
    assert model.weight.item() == 4.0
    soup.delete()
    assert not list(tmp_path.glob(FILES))


def test_frozen_weights_are_not_mixed(tmp_path):
    model = line(1.0)
    model.freeze(keys=["bias"])
    soup = Soup(tmp_path, model)
    soup.keep(0)
    model.bias = mx.array([7.0])
    soup.mix([0])
    assert model.bias.item() == 7.0


def test_a_greedy_soup_takes_only_the_epochs_that_help(tmp_path):
    model = line(0.0)
    soup = Soup(tmp_path, model)
    weights = (2.0, 4.2, 100.0)  # the truth is 3: the mean of the first two is nearest
    for epoch, weight in enumerate(weights):
        model.weight = mx.array([[weight]])
        soup.keep(epoch)

    def error() -> float:
        return abs(model.weight.item() - 3)

    scores = [abs(weight - 3) for weight in weights]
    assert soup.mix_greedily(scores, False, error) == [0, 1]
    assert model.weight.item() == pytest.approx(3.1)


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
def test_a_network_is_trained_to_a_soup(kind, passengers, write_csv, tiny, tmp_path):
    flags = {"data.train": write_csv("train.csv", passengers(60)), "data.target": "Survived"}
    overrides = [*tiny, "folds=0", f"training.soup={kind}", "training.soup_epochs=2"]
    config = resolve_config("quick", flags=flags, overrides=[*overrides, "training.epochs=3"])
    job = prepare_job(config)
    train = take(job.table, job.splits[0][0])
    held = take(job.table, job.splits[0][1]) if kind == "greedy" else None
    lines = []

    def report(event: dict) -> None:
        lines.append(event.get("report", ""))

    experiment = Experiment.prepare(config, job.competition, train, seed=0)
    result = experiment.train_model(None, tmp_path / "checkpoints", report, False, held)
    (said,) = [each for each in lines if "soup" in each]
    if kind == "uniform":
        assert said == "soup: the mean of the weights after epochs 2, 3"
    else:
        assert all(np.isfinite(entry[HELD_OUT]) for entry in result.history)
    assert not list(tmp_path.rglob(FILES))


def test_a_soup_and_patience_exclude_each_other():
    with pytest.raises(ConfigError, match="training: soup=uniform and patience=2 exclude"):
        resolve_config("quick", overrides=["training.soup=uniform", "training.patience=2"])


@pytest.fixture
def tables(write_csv) -> dict[str, str]:
    letters = [chr(97 + row % 26) for row in range(40)]
    prose = [f"{PROSE} {letter}{row}" for row, letter in enumerate(letters)]
    answers = [row % 2 for row in range(40)]
    return {
        "prose": write_csv("prose.csv", {"text": prose, "y": answers}),
        "numbers": write_csv("numbers.csv", {"a": list(range(40)), "y": answers}),
    }


def test_prose_and_an_encoder_make_standard_the_default(tables, tmp_path, caplog):
    flags = {"data.train": tables["prose"], "data.target": "y"}
    assert choose_preset(None, None, flags, []) == (None, flags)  # no encoder yet
    given = {**flags, "encoder.path": "some/encoder"}
    assert choose_preset(None, None, given, []) == ("standard", given)
    remember_encoder(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        preset, found = choose_preset(None, None, flags, [])
    assert (preset, found["encoder.path"]) == ("standard", str(tmp_path))
    assert f"preset standard, because the column 'text' is prose and an encoder was used before: " \
           f"{tmp_path}" in caplog.text  # fmt: skip


def test_the_default_stays_quick_without_prose_or_with_a_choice(tables, tmp_path):
    remember_encoder(str(tmp_path))
    numbers = {"data.train": tables["numbers"], "data.target": "y"}
    assert choose_preset(None, None, numbers, []) == (None, numbers)
    prose = {"data.train": tables["prose"], "data.target": "y"}
    assert choose_preset("quick", None, prose, []) == ("quick", prose)
    scratch = {**prose, "encoder.path": "scratch"}
    assert choose_preset(None, None, scratch, []) == (None, scratch)


def test_an_encoder_that_is_gone_is_forgotten(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    remember_encoder(str(folder))
    assert last_encoder() == str(folder)
    Path(folder).rmdir()
    assert last_encoder() == ""
