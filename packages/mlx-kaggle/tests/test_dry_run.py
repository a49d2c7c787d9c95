"""`--dry-run` says what it would write, writes nothing, asks nobody; `--json` is one document."""

import contextlib
import io
import json
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlx_kaggle.cli import cli
from mlx_kaggle.runs.tracking import TRACKING
from mlx_kaggle.training.estimate import seconds_left

TABLE = ("--train", "demo/train.csv", "--target", "cultivar")
TRAIN = (*TABLE, "--folds", "2", "--members", "linear", "--set", "blend.generate=none")
PREDICT = ("predict", "--run", "runs/a", "--test", "demo/test.csv")
SUBMIT = ("titanic", "demo/submission.csv", "-m", "first")
DEMO = ("demo", "--output", "demo", "--seed", "3", "--set", "members=[linear]",
        "--set", "folds=2", "--set", "blend.generate=none")  # fmt: skip

# The arguments of a call, and words of what it would do.
DRY = {
    "train": (("train", *TRAIN, "--output", "new"),
              "train majority, HistGradientBoosting, linear on 2 folds of 133 rows: 6 models"),
    "cv": (("cv", *TRAIN, "--repeats", "3"),
           "linear on 2 folds of 133 rows, 3 times: 18 models"),
    "baseline": (("baseline", *TABLE, "--folds", "2"), "write nothing"),
    "tune": (("tune", *TRAIN, "--output", "new", "--trials", "7"),
             "run trials until 7 are finished"),
    "benchmark": (("benchmark", *TABLE, "--batch-sizes", "4,8", "--rows", "20"),
                  "measure 2 networks (scratch; rows per update: 4, 8) on at most 20 rows"),
    "demo": ((*DEMO[:2], "other", *DEMO[3:]), "--seed 3 --set 'members=[linear]'"),
    "validate-data": (("validate-data", *TABLE, "--output", "check.html"),
                      "check demo/train.csv (133 rows), demo/test.csv (45 rows)"),
    "config init": (("config", "init", "--output", "new.yaml"), "write new.yaml: "),
    "predict": ((*PREDICT, "--output", "answers.csv"), "predict 45 rows with 1 member of runs/a"),
    "ensemble": (("ensemble", "runs/a", "runs/b", "--output", "runs/both"),
                 "write runs/both: config.yaml"),
    "download": (("download", "titanic", "--output", "runs/a"), "leave equal ones of the "),
    "submit": (("submit", *SUBMIT), "submit demo/submission.csv to titanic: first"),
    "kaggle download": (("kaggle", "download", "titanic"), "write new ones to titanic"),
    "kaggle submit": (("kaggle", "submit", *SUBMIT, "--run", "runs/a"),
                      "note it in submissions.jsonl of runs/a"),
    "runs rm": (("runs", "rm", "runs/a", "runs/b"), "delete runs/b: "),
    "runs page": (("runs", "page", "--output", "page.html"),
                  "write page.html: a page about 2 runs"),
    "runs mirror": (("runs", "mirror", "runs/a", "--to", "mlflow"),
                    "send 0 epochs of networks, scores and files of runs/a to mlflow"),
}  # fmt: skip
NEEDS = {"tune": "optuna", "runs mirror": "mlflow"}

# Calls that are quick; other tests read the documents of the rest.
DOCUMENTS = {
    "predict": (*PREDICT, "--output", "answers.csv"),
    "evaluate": ("evaluate", "--run", "runs/a", "--data", "demo/answers.csv"),
    "ensemble": ("ensemble", "runs/a", "runs/b", "--output", "runs/both"),
    "validate-data": ("validate-data", *TABLE),
    "text": ("text", *TABLE),
    "info": ("info",),
    "config init": ("config", "init"),
    "config show": ("config", "show"),
    "config validate": ("config", "validate", "mine.yaml"),
    "presets list": ("presets", "list"),
    "presets show": ("presets", "show", "wine"),
    "runs list": ("runs", "list"),
    "runs show": ("runs", "show", "runs/a"),
    "runs compare": ("runs", "compare", "runs/a", "runs/b"),
    "runs page": ("runs", "page", "--output", "page.html"),
    "runs rm": ("runs", "rm", "runs/b", "--yes"),
    "kaggle check": (
        "kaggle",
        "check",
        "demo/submission.csv",
        "--sample-submission",
        "demo/sample_submission.csv",
    ),
}
READ_ELSEWHERE = {
    *("demo", "train", "cv", "baseline", "benchmark", "tune", "runs mirror"),
    *("download", "submit", "kaggle download", "kaggle submit", "kaggle files"),
    *("kaggle submissions", "kaggle leaderboard", "kaggle limits", "export"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict, str]:
    """A folder with the demo and two runs; what the demo printed, as a document and as lines."""
    folder = tmp_path_factory.mktemp("dry")
    (folder / "mine.yaml").write_text("base: titanic\ntraining: {epochs: 2}\n")
    printed, lines = io.StringIO(), io.StringIO()
    captured = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(lines)
    with captured[0], captured[1], contextlib.chdir(folder):
        cli.main([*DEMO, "--json"], standalone_mode=False)
    for name in ("a", "b"):
        shutil.copytree(folder / "demo" / "run", folder / "runs" / name)
    return folder, json.loads(printed.getvalue()), lines.getvalue()


@pytest.fixture
def folder(made) -> Path:
    return made[0]


@pytest.fixture
def offline(monkeypatch) -> None:
    """Fail if anything asks a server."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))}  # fmt: skip


def test_every_dry_run_and_every_document_is_tested(commands):
    def having(flag: str) -> set[str]:
        return {name for name, each in commands.items() if any(flag in p.opts for p in each.params)}

    assert having("--dry-run") == {*DRY, "export"}  # test_export.py has it
    assert having("--json") == {*DOCUMENTS, *READ_ELSEWHERE}


def test_the_demo_prints_what_its_three_commands_found(made):
    found = made[1]
    assert found["folder"] == "demo"
    assert found["train"]["metric"] == "accuracy"
    assert found["predict"]["rows"] == 45
    assert found["evaluate"]["accuracy"] > 0.8


def test_what_is_left_is_said_after_each_fold_but_the_last(made):
    left = [line for line in made[2].splitlines() if "folds are finished" in line]
    assert [line.partition("; about ")[0] for line in left] == ["1 of 2 folds are finished"]
    # Two folds of equal length, 0.3 of both for blend and report, and 5 s.
    assert seconds_left(10, 1, 2) == 10 + 6 + 5


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", DRY)
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(name, folder, run_cli, monkeypatch):
    if (needs := NEEDS.get(name)) and find_spec(needs) is None:
        pytest.skip(f"{needs} is an optional extra")
    monkeypatch.chdir(folder)
    before, (call, words) = listing(folder), DRY[name]
    plan = json.loads(run_cli(*call, "--dry-run", "--json").stdout)
    assert plan["dry_run"] is True
    assert words in "\n".join(plan["would"])
    shown = run_cli(*call, "--dry-run").stdout
    assert words in shown.replace("would ", "")
    assert listing(folder) == before


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_is_one_document_and_all_of_standard_output(name, folder, run_cli, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert json.loads(run_cli(*DOCUMENTS[name], "--json").stdout)


@pytest.mark.usefixtures("offline")
def test_a_dry_run_refuses_what_the_command_would_refuse(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    before = listing(folder)
    train = ("train", *TRAIN, "--dry-run")
    assert "runs/a is a run" in run_cli(*train, "--output", "runs/a", code=1).stderr
    done = run_cli(*train, "--output", "runs/a", "--overwrite")
    files = sum(path.is_file() for path in Path("runs/a").rglob("*"))
    assert f"instead of {files} files of the run there" in done.stdout
    assert "is not empty and not a run" in run_cli(*train, "--output", "runs", code=1).stderr
    assert "in the run" in run_cli(*PREDICT, "--output", "runs/a/x.csv", "--dry-run", code=1).stderr
    ensemble = ("ensemble", "runs/a", "runs/b", "--output", "runs/a", "--dry-run")
    assert "runs/a is a run of mlx-kaggle" in run_cli(*ensemble, code=1).stderr
    assert "exists; add --overwrite" in run_cli(
        "config", "init", "--output", "mine.yaml", "--dry-run", code=2
    ).stderr  # fmt: skip
    assert listing(folder) == before


@pytest.mark.usefixtures("offline")
def test_a_dry_run_does_not_fetch_an_encoder(folder, run_cli, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    call = ("train", *TRAIN, "--encoder", "nobody/nothing", "--output", "new", "--dry-run")
    plan = json.loads(run_cli(*call, "--json").stdout)
    assert plan["would"][0] == "download the encoder nobody/nothing, of which no copy is here"
    assert plan["seconds"] is None


@pytest.mark.usefixtures("offline")
def test_a_dry_run_of_resume_counts_the_finished_models(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    done = run_cli("train", "--resume", "--output", "runs/a", "--dry-run", "--json")
    assert json.loads(done.stdout)["finished"] == 6
    assert not (folder / "runs" / "a" / TRACKING).exists()
