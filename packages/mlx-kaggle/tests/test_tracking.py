"""Mirrors of runs: everything arrives once, and a tracker that fails changes nothing.

Tests with MLflow, Weights & Biases or trackio are skipped where it is not installed: the nox
session `trackers` has them.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_kaggle.runs.folder import create_run, resume_run, train_run
from mlx_kaggle.runs.tracking import Mirror
from mlx_kaggle.settings.config import resolve_config
from mlx_trainer import ConfigError

TINY = [
    *("encoder.hidden_size=32", "encoder.num_hidden_layers=1", "encoder.num_attention_heads=2"),
    *("encoder.intermediate_size=32", "encoder.vocab_size=300", "head.feature_size=8"),
    *("text.max_tokens=64", "blend={generate: none}", "training.epochs=2"),
]
NETWORKS = [f"fold-{fold}-seed-0" for fold in range(3)]


def settings(*overrides: str):
    flags = {"data.train": "train.csv", "data.target": "y", "folds": 3}
    return resolve_config(None, None, flags, [*TINY, "members=[text, linear]", *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a table and a finished run, made once."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [f"{i},{i % 7},{('red', 'blue')[i % 2]},{i % 2 + i / 100}" for i in range(45)]
    (folder / "train.csv").write_text("\n".join(["id,amount,colour,y", *rows]) + "\n")
    with contextlib.chdir(folder):
        train_run(settings(), lambda: create_run(Path("runs/one"), settings(), False))
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A copy of the run, in the current folder."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/one")


@pytest.fixture
def mlflow_runs(run, tmp_path):
    """Return the client of the default store, and a function that returns its runs."""
    pytest.importorskip("mlflow", reason="pip install 'mlx-kaggle[mlflow]'")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs/mlruns.db'}")

    def search():
        return client.search_runs([each.experiment_id for each in client.search_experiments()])

    return client, search


# SQLAlchemy and MLflow warn about themselves.
libraries = pytest.mark.filterwarnings("ignore")


def test_an_unknown_or_absent_tracker_is_refused_before_anything_is_read(run, run_cli, monkeypatch):
    with pytest.raises(ConfigError, match="report_to: unknown name 'mflow'; did you mean 'mlflow'"):
        settings("report_to=[mflow]")
    run_cli("train", "--train", "train.csv", "--target", "y", "--output", "runs/two",
            "--report-to", "mlflow,wanb", code=2)  # fmt: skip
    monkeypatch.setattr("mlx_kaggle.runs.tracking.find_spec", lambda name: None)
    for arguments in (
        ("train", "--train", "train.csv", "--target", "y", "--output", "runs/two", "--report-to",
         "mlflow"),
        ("runs", "mirror", str(run), "--to", "mlflow"),
    ):  # fmt: skip
        done = run_cli(*arguments, code=2)
        assert "mlflow is not installed: pip install 'mlx-kaggle[mlflow]'" in done.stderr
        assert done.stdout == ""
    assert not Path("runs/two").exists()
    assert not (run / "tracking.json").exists()


@libraries
def test_a_training_is_mirrored_to_mlflow_as_it_is_afterwards(mlflow_runs, run, run_cli):
    client, found = mlflow_runs
    config = settings("report_to=[mlflow]")
    train_run(config, lambda: create_run(Path("runs/two"), config, False))
    run_cli("runs", "mirror", "runs/one", "--to", "mlflow")
    two, one = sorted(found(), key=lambda each: each.info.run_name, reverse=True)
    summary = json.loads(Path("runs/two/summary.json").read_text())
    for each in (one, two):
        assert each.info.status == "FINISHED"
        assert each.data.params["training.epochs"] == "2"
        assert each.data.metrics["score"] == pytest.approx(summary["score"])
        assert each.data.metrics["members/text"] == summary["members"]["text"]["score"]
        assert each.data.tags["data"] == "y of train.csv"
        assert each.data.tags["answer note"] == summary["answer"]
        files = {file.path for file in client.list_artifacts(each.info.run_id)}
        assert files == {"report.html", "summary.json", "config.yaml"}
        for network in NETWORKS:
            history = json.loads((run / "members" / network / "history.json").read_text())
            points = client.get_metric_history(each.info.run_id, f"{network}/train_loss")
            assert [point.step for point in points] == [0, 1]
            assert [point.value for point in points] == [each["train_loss"] for each in history]
    assert sorted(each.name for each in Path("runs").iterdir()) == [
        "mlartifacts", "mlruns.db", "one", "two"
    ]  # fmt: skip


@libraries
def test_resuming_and_mirroring_again_send_nothing_twice(mlflow_runs, run, run_cli):
    client, found = mlflow_runs
    config = settings("report_to=[mlflow]")
    train_run(config, lambda: create_run(Path("runs/two"), config, False))
    # As if the run had been killed in the last fold: its network is trained, and reported, again.
    sent = json.loads(Path("runs/two/tracking.json").read_text())
    sent["mlflow"]["finished"] = False
    Path("runs/two/tracking.json").write_text(json.dumps(sent))
    shutil.rmtree(f"runs/two/members/{NETWORKS[2]}")
    resumed, config = resume_run(Path("runs/two"))
    train_run(config, lambda: resumed, resume=True)
    run_cli("runs", "mirror", "runs/two", "--to", "mlflow")
    (only,) = found()
    assert only.info.status == "FINISHED"
    for network in NETWORKS:
        points = client.get_metric_history(only.info.run_id, f"{network}/train_loss")
        assert [point.step for point in points] == [0, 1]
    client.delete_run(only.info.run_id)
    run_cli("runs", "mirror", "runs/two", "--to", "mlflow")
    (again,) = found()  # the deleted one is not among them
    assert again.info.run_id != only.info.run_id


@libraries
def test_a_store_that_cannot_be_written_ends_no_training(mlflow_runs, run, run_cli, monkeypatch):
    store = f"sqlite:///{Path('train.csv').absolute()}/mlruns.db"  # a file is no folder
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    done = run_cli("train", "--train", "train.csv", "--target", "y", "--output", "runs/two",
                   "--members", "linear", "--folds", "3", "--report-to", "mlflow",
                   "--set", "blend.generate=none", "--json")  # fmt: skip
    warnings = [line for line in done.stderr.splitlines() if "mlflow failed" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith("mlx-kaggle runs mirror runs/two --to mlflow")
    assert json.loads(done.stdout)["metric"] == "rmse"
    done = run_cli("runs", "mirror", "runs/one", "--to", "mlflow", code=1)
    assert "1 of 1 were not mirrored" in done.stderr


def test_a_tracker_that_fails_in_the_middle_is_switched_off_with_one_line(run, monkeypatch):
    class Failing:
        """A tracker whose server goes away after the first epoch."""

        id = "1"
        knows = destination = staticmethod(lambda record, *more: "there")
        logged: list[int] = []  # noqa: RUF012

        def __init__(self, record, id):
            print("hello")

        def log(self, metrics, step, when):
            if self.logged:
                raise ConnectionError("gone\naway")
            self.logged.append(step)

    monkeypatch.setattr("mlx_kaggle.runs.trackers.TRACKERS", {"mlflow": Failing})
    lines: list[str] = []
    with Mirror(run, ["mlflow"], lines.append) as mirror:
        for epoch in range(4):
            mirror.report({"event": "evaluation", "member": "a", "epoch": epoch, "rmse": 1.0})
        mirror.finish()
    assert Failing.logged == [0]
    assert lines == [
        "mlflow failed (ConnectionError: gone away): epoch 1 of a and the rest is not mirrored; "
        f"the run folder has it, to send later: mlx-kaggle runs mirror {run} --to mlflow"
    ]
    sent = json.loads((run / "tracking.json").read_text())["mlflow"]
    assert (sent["epochs"], sent["finished"]) == ({"a": 0}, False)


@libraries
def test_a_run_is_mirrored_to_wandb_offline(run, run_cli, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'mlx-kaggle[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = run_cli("runs", "mirror", "runs/one", "--to", "wandb", "--json")
    (mirrored,) = json.loads(done.stdout)["mirrored"]
    (written,) = Path("runs/wandb").glob("offline-run-*/run-*.wandb")
    assert mirrored["to"].endswith(written.stem.removeprefix("run-"))
    assert b"fold-0-seed-0/train_loss" in written.read_bytes()
    run_cli("runs", "mirror", "runs/one", "--to", "wandb")
    assert len([*Path("runs/wandb").glob("offline-run-*")]) == 1


@libraries
def test_a_run_is_mirrored_to_trackio(run, run_cli, tmp_path):
    pytest.importorskip("trackio", reason="pip install 'mlx-kaggle[trackio]'")
    command = [sys.executable, "-m", "mlx_kaggle.cli", "runs", "mirror", "runs/one", "--to",
               "trackio", "--json"]  # fmt: skip
    # trackio reads its folder when it is imported: a process of its own.
    env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=True)
    assert json.loads(done.stdout)["mirrored"][0]["tracker"] == "trackio"
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio/y-of-train-csv.db")) as base:
        entries = [json.loads(text) for (text,) in base.execute("select metrics from metrics")]
    losses = [each["fold-1-seed-0/train_loss"] for each in entries
              if "fold-1-seed-0/train_loss" in each]  # fmt: skip
    history = json.loads((run / "members/fold-1-seed-0/history.json").read_text())
    assert losses == [each["train_loss"] for each in history]
    summary = json.loads((run / "summary.json").read_text())
    assert [each["score"] for each in entries if "score" in each] == [summary["score"]]
