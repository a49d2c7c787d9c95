"""Every task and loss from a table to a submission, through the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mlx_heads import get_metric, objectives
from mlx_kaggle.cli import main

LABELS = ["angry", "happy", "loud"]
ROWS = 120


@pytest.fixture
def run(tmp_path, tiny_flags):
    """Run a command, and return its exit status."""

    def call(*arguments: object) -> int:
        train = [*tiny_flags, "--set", "training.epochs=1"] if arguments[0] == "train" else []
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), *train])
        return int(ended.value.code or 0)

    return call


def read(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def comments(rows: int, seed: int = 0) -> dict[str, list]:
    """Comments whose words say their labels; a row may have several labels, or none."""
    rng = np.random.default_rng(seed)
    codes = (rng.random((rows, 3)) < [0.5, 0.3, 0.2]).astype(int)
    words = np.array([["calm", "furious"], ["gloomy", "joyful"], ["whisper", "shout"]])
    texts = [
        " ".join([*(words[at, code] for at, code in enumerate(row)), f"number {1000 * seed + n}"])
        for n, row in enumerate(codes)
    ]
    labels = {name: codes[:, at].tolist() for at, name in enumerate(LABELS)}
    return {"id": list(range(rows)), "text": texts, **labels}


def wines(rows: int, seed: int = 0) -> dict[str, list]:
    """A quality from 3 to 6 that two measurements and some noise determine, and two numbers."""
    rng = np.random.default_rng(seed)
    acid, alcohol = rng.normal(size=(2, rows)).round(3)
    latent = alcohol - 0.5 * acid + rng.normal(0, 0.4, rows)
    return {
        "id": list(range(rows)),
        "acid": acid.tolist(),
        "alcohol": alcohol.tolist(),
        "quality": (3 + np.searchsorted([-1, 0, 1], latent)).tolist(),
        "price": np.exp(1 + 0.5 * latent).round(4).tolist(),
        "score": (80 + 5 * latent).round(4).tolist(),
    }


def without(table: dict[str, list], *names: str) -> dict[str, list]:
    return {name: cells for name, cells in table.items() if name not in names}


@pytest.mark.parametrize("flags", [["--targets", "angry:loud"], ["--task", "multilabel"]])
def test_labels_from_a_table_to_a_submission(flags, write_csv, run, tmp_path):
    train, test = write_csv("train.csv", comments(ROWS)), comments(30, seed=1)
    write_csv("sample_submission.csv", {"id": test["id"], **dict.fromkeys(LABELS, [0.5] * 30)})
    write_csv("test.csv", without(test, *LABELS))
    answers = write_csv("answers.csv", test)
    folder = tmp_path / "run"
    assert run("train", "--train", train, *flags, "--output", folder) == 0
    summary = json.loads((folder / "summary.json").read_text())
    ours, constant = summary["scores"]["mlx-kaggle"], summary["scores"]["majority"]
    assert ours["f1_macro"] > constant["f1_macro"] + 0.2
    assert ours["log_loss"] < constant["log_loss"]
    assert {"HistGradientBoosting", "linear model"} <= set(summary["scores"])
    validation = read(folder / "validation.csv")
    assert set(validation["prediction angry"]) == {"0", "1"}
    submission = tmp_path / "submission.csv"
    test_csv = tmp_path / "test.csv"
    assert run("predict", "--run", folder, "--test", test_csv, "--output", submission) == 0
    written = read(submission)
    assert list(written) == ["id", *LABELS]
    area = get_metric("roc_auc")(
        np.array([test[name] for name in LABELS]).T,
        np.array([written[name] for name in LABELS], float).T,
    )
    assert area > 0.9
    assert run("evaluate", "--run", folder, "--data", answers) == 0


@pytest.mark.parametrize("loss", objectives("ordinal"))
def test_ordered_classes_by_every_loss(loss, write_csv, run, tmp_path, capsys):
    train = write_csv("train.csv", without(wines(ROWS), "price", "score"))
    folder = tmp_path / "run"
    flags = ["--target", "quality", "--task", "ordinal", "--loss", loss]
    assert (
        run("train", "--train", train, *flags, "--set", "val_fraction=0.5", "--output", folder) == 0
    )
    scores = json.loads((folder / "summary.json").read_text())["scores"]
    assert scores["mlx-kaggle"]["quadratic_kappa"] > 0.6
    test = wines(40, seed=2)
    answers = write_csv("answers.csv", test)
    assert run("evaluate", "--run", folder, "--data", answers, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["quadratic_kappa"] > 0.6
    submission = tmp_path / "submission.csv"
    assert run("predict", "--run", folder, "--test", answers, "--output", submission) == 0
    assert set(read(submission)["quality"]) <= {"3", "4", "5", "6"}


@pytest.mark.parametrize("loss", ["gaussian_nll", "beta_nll", "quantile"])
def test_intervals_cover_what_they_say(loss, write_csv, run, tmp_path):
    train = write_csv("train.csv", without(wines(300), "quality", "score"))
    folder = tmp_path / "run"
    flags = ["--target", "price", "--metric", "rmsle", "--loss", loss, "--set", "val_fraction=0.5"]
    assert run("train", "--train", train, *flags, "--output", folder) == 0
    scores = json.loads((folder / "summary.json").read_text())["scores"]
    assert 0.8 < scores["mlx-kaggle"]["coverage"] < 0.97
    assert scores["mlx-kaggle"]["interval_score"] < scores["mean"]["interval_score"]
    validation = read(folder / "validation.csv")
    low, value, high = (
        np.array(validation[name], float) for name in ("lower", "prediction", "upper")
    )
    assert (low <= value).all()
    assert (value <= high).all()
    assert (low > 0).all()  # bounds of a logarithm are prices too


@pytest.mark.parametrize("loss", [each for each in objectives("regression") if each != "mse"])
def test_several_numbers_by_every_loss(loss, write_csv, run, tmp_path):
    train = write_csv("train.csv", without(wines(ROWS), "quality"))
    folder = tmp_path / "run"
    flags = ["--target", "price,score", "--loss", loss]
    assert run("train", "--train", train, *flags, "--output", folder) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metric"] == "mcrmse"
    assert summary["score"] < 0.7 * summary["scores"]["mean"]["mcrmse"]
    test = write_csv("test.csv", without(wines(20, seed=3), "quality", "price", "score"))
    submission = tmp_path / "submission.csv"
    assert run("predict", "--run", folder, "--test", test, "--output", submission) == 0
    assert list(read(submission)) == ["id", "price", "score"]


@pytest.mark.parametrize(
    ("task", "loss"),
    [(task, loss) for task in ("binary", "multiclass") for loss in objectives(task)],
)
def test_classes_by_every_loss(task, loss, write_csv, run, tmp_path):
    table = without(wines(ROWS), "price", "score")
    if task == "binary":
        table["quality"] = [int(each > 4) for each in table["quality"]]
    train = write_csv("train.csv", table)
    folder = tmp_path / "run"
    flags = ["--target", "quality", "--task", task, "--loss", loss, "--metric", "log_loss"]
    options = ["--set", "loss.class_weights=balanced", "--set", "loss.r_drop=0.5"]
    assert run("train", "--train", train, *flags, *options, "--output", folder) == 0
    scores = json.loads((folder / "summary.json").read_text())["scores"]
    assert scores["mlx-kaggle"]["accuracy"] > scores["majority"]["accuracy"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "corn"], "loss.name: task 'binary' has no objective 'corn'"),
        (["--loss", "crossentropy"], "did you mean 'cross_entropy'?"),
        (["--set", "head.pooling=median"], "median"),
        (["--task", "regression", "--set", "loss.r_drop=1"], "loss.r_drop is for classes"),
        (["--calibration", "platt"], "'platt'"),
    ],
)
def test_a_wrong_loss_or_option_is_named(flags, message, write_csv, run, passengers, capsys):
    train = write_csv("train.csv", passengers(60))
    assert run("train", "--train", train, "--target", "Survived", "--output", "run", *flags) == 2
    assert message in capsys.readouterr().err


def test_pooling_of_several_kinds_and_layers_is_saved(write_csv, run, passengers, tmp_path):
    train = write_csv("train.csv", passengers(60))
    test = write_csv("test.csv", without(passengers(10, seed=5, first_id=100), "Survived"))
    folder = tmp_path / "run"
    options = ["--set", "head.pooling=attention+last", "--set", "head.layer_mix=true"]
    flags = ["--target", "Survived", *options]
    assert run("train", "--train", train, *flags, "--output", folder) == 0
    submission = tmp_path / "submission.csv"
    assert run("predict", "--run", folder, "--test", test, "--output", submission) == 0
    assert len(read(submission)["Survived"]) == 10
