"""Every task and loss from a table to a submission, through the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mlx_heads import get_metric, objectives
from mlx_kaggle.cli import main
from mlx_kaggle.members.objective import class_weights
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import prepare_job
from mlx_tabtext import Schema

LABELS = ["angry", "happy", "loud"]
ROWS = 120


@pytest.fixture
def run(tmp_path, tiny_flags):
    """Run a command, and return its exit status."""

    def call(*arguments: object) -> int:
        quick = ["--folds", "0", *tiny_flags, "--set", "training.epochs=1"]
        train = quick if arguments[0] == "train" else []
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
    assert "text" in summary["scores"]
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


@pytest.fixture
def learn(write_csv, tiny, tmp_path):
    """Train on half of a table with a loss; return the job and a prediction of the other half."""

    def call(table: dict[str, list], target: str, task: str, loss: str, *overrides: str):
        flags = {"data.train": write_csv("train.csv", table), "data.target": target}
        flags |= {"data.task": task, "loss.name": loss}
        settings = ["folds=0", "val_fraction=0.5", "training.epochs=2", *tiny, *overrides]
        job = prepare_job(resolve_config("quick", flags=flags, overrides=settings))
        train, val = (take(job.table, rows) for rows in job.splits[0])
        experiment = Experiment.prepare(job.config, job.competition, train, seed=0)
        experiment.train_model(None, tmp_path / "checkpoints", lambda event: None, resume=False)
        return job, predict_member(experiment.member, job.competition, val, job.config, tta=1)

    return call


@pytest.mark.parametrize("loss", objectives("ordinal"))
def test_ordered_classes_by_every_loss(loss, learn):
    job, prediction = learn(without(wines(200), "price", "score"), "quality", "ordinal", loss)
    if loss != "mse":
        assert prediction.shape == (100, 4)
        assert (prediction >= 0).all()
        np.testing.assert_allclose(prediction.sum(1), 1, atol=1e-5)
    assert job.scores(*job.decide(prediction))["quadratic_kappa"] > 0.6


@pytest.mark.parametrize("loss", objectives("regression"))
def test_several_numbers_by_every_loss(loss, learn):
    job, prediction = learn(without(wines(200), "quality"), "price,score", "regression", loss)
    interval = loss in ("gaussian_nll", "beta_nll", "quantile")
    assert prediction.shape == ((100, 2, 3) if interval else (100, 2))
    scores = job.scores(*job.decide(prediction))
    assert scores["r2"] > 0.6
    if interval:
        assert 0.8 < scores["coverage"] < 0.99


@pytest.mark.parametrize(
    ("task", "loss"),
    [(task, loss) for task in ("binary", "multiclass") for loss in objectives(task)],
)
def test_classes_by_every_loss(task, loss, learn):
    table = without(wines(200), "price", "score")
    if task == "binary":
        table["quality"] = [int(each > 4) for each in table["quality"]]
    options = ["loss.class_weights=balanced", "loss.r_drop=0.5"]
    job, prediction = learn(table, "quality", task, loss, *options)
    scores = job.scores(*job.decide(prediction))
    assert scores["accuracy"] > (0.75 if task == "binary" else 0.5)


@pytest.mark.parametrize("loss", objectives("multilabel"))
def test_labels_by_every_loss(loss, learn):
    options = ["loss.class_weights=balanced"] if loss == "cross_entropy" else []
    job, prediction = learn(comments(200), ",".join(LABELS), "multilabel", loss, *options)
    assert prediction.shape == (100, 3)
    assert job.scores(*job.decide(prediction))["roc_auc"] > 0.9


def test_balanced_weights_give_every_class_the_same_sum(learn):
    config = resolve_config(
        "quick", flags={"data.train": "t.csv"}, overrides=["loss.class_weights=balanced"]
    )
    competition = Competition(Schema(()), ("y",), "multiclass", "accuracy", ("a", "b", "c"), None)
    codes = np.array([0, 0, 0, 1, 2, 2])
    weights = class_weights(config, competition, codes)
    np.testing.assert_allclose(np.bincount(codes, weights), 2.0, rtol=1e-6)


def test_ordered_classes_from_a_table_to_a_submission(write_csv, run, tmp_path, capsys):
    train = write_csv("train.csv", without(wines(ROWS), "price", "score"))
    folder = tmp_path / "run"
    flags = ["--target", "quality", "--task", "ordinal", "--set", "val_fraction=0.5"]
    assert run("train", "--train", train, *flags, "--output", folder) == 0
    stored = json.loads((folder / "decision.json").read_text())["thresholds"]
    assert len(stored) == 3
    answers = write_csv("answers.csv", wines(40, seed=2))
    assert run("evaluate", "--run", folder, "--data", answers, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["quadratic_kappa"] > 0.6
    submission = tmp_path / "submission.csv"
    assert run("predict", "--run", folder, "--test", answers, "--output", submission) == 0
    assert set(read(submission)["quality"]) <= {"3", "4", "5", "6"}


def test_intervals_of_several_numbers_are_written(write_csv, run, tmp_path):
    train = write_csv("train.csv", without(wines(300), "quality"))
    folder = tmp_path / "run"
    flags = ["--target", "price,score", "--loss", "quantile", "--set", "val_fraction=0.5"]
    assert run("train", "--train", train, *flags, "--output", folder) == 0
    scores = json.loads((folder / "summary.json").read_text())["scores"]
    assert scores["mlx-kaggle"]["interval_score"] < 0.7 * scores["training mean"]["interval_score"]
    test = write_csv("test.csv", without(wines(20, seed=3), "quality", "price", "score"))
    submission = tmp_path / "submission.csv"
    assert run("predict", "--run", folder, "--test", test, "--output", submission) == 0
    written = read(submission)
    bounds = [f"{name} {side}" for name in ("price", "score") for side in ("lower", "upper")]
    assert list(written) == ["id", "price", "score", *bounds]
    low, value, high = (
        np.array(written[name], float) for name in ("score lower", "score", "score upper")
    )
    assert (low <= value).all()
    assert (value <= high).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "corn"], "loss.name: task 'binary' has no objective 'corn'"),
        (["--loss", "crossentropy"], "did you mean 'cross_entropy'?"),
        (["--set", "head.pooling=median"], "median"),
        (["--task", "regression", "--loss", "quantile", "--set", "loss.r_drop=1"],
         "loss.r_drop is for classes, labels and values, but the loss quantile predicts intervals"),
        (["--calibration", "platt"], "'platt'"),
    ],
)  # fmt: skip
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calibration", "isotonic"], "decision.calibration is for probabilities"),
        (["--thresholds", "fit"], "cannot be fitted to the metric rmse; regression has none"),
        (["--metric", "coverage"], "scores intervals and cannot rank a run"),
    ],
)
def test_what_a_regression_does_not_have_is_refused(flags, message, write_csv, run, capsys):
    train = write_csv("train.csv", without(wines(60), "quality", "score"))
    status = run("train", "--train", train, "--target", "price", "--output", "run", *flags)
    assert status in (1, 2)
    assert message in capsys.readouterr().err


def test_labels_with_a_wrong_cell_are_a_regression_that_says_so(write_csv):
    table = comments(100)
    table["happy"][7] = 2
    flags = {"data.train": write_csv("train.csv", table), "data.targets": "angry:loud"}
    job = prepare_job(resolve_config("quick", flags=flags))
    assert job.competition.task == "regression"
    assert any("1 of the cells of the 3 targets are not 0 or 1 (first: row 9, happy is '2')" in note
               for note in job.notes)  # fmt: skip


def test_a_date_in_every_row_proposes_a_forecast(write_csv):
    days = [f"2024-{1 + day // 28:02}-{1 + day % 28:02}" for day in range(100)]
    table = {"day": days, "sold": np.arange(100) * 1.5 + 0.25}
    flags = {"data.train": write_csv("train.csv", table), "data.target": "sold"}
    job = prepare_job(resolve_config("quick", flags=flags))
    assert any("add --task forecast --time day --horizon STEPS" in note for note in job.notes)
