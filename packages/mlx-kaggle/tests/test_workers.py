"""Members trained side by side in other processes: the answer of one process, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

LIMIT = 600
# What a process writes about itself, and archives with the time of their writing.
OF_THE_PROCESS = ("time.json", "env.json", "metrics.jsonl", "report.html", "summary.json",
                  "manifest.json", "config.yaml", "run.json")  # fmt: skip
TINY = ("hidden_size=32", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=32",
        "vocab_size=300")  # fmt: skip
CLI = (sys.executable, "-m", "mlx_kaggle.cli", "train")


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """A folder with a table, and a run of one process in `one`."""
    folder = tmp_path_factory.mktemp("workers")
    rng = np.random.default_rng(0)
    kind, size = rng.choice(["red", "blue"], 60), rng.normal(size=60).round(2)
    answers = np.where((kind == "red") ^ (size > 1), "yes", "no")
    rows = [f"{a},{b},{y}" for a, b, y in zip(kind, size, answers, strict=True)]
    (folder / "train.csv").write_text("\n".join(["kind,size,y", *rows]))
    finish(start(folder, *FLAGS, "--output", "one"))
    return folder


FLAGS = (
    *("--train", "train.csv", "--target", "y", "--folds", "2"),
    *("--members", "linear,forest,text", "--set", "blend.generate=none"),
    *(part for each in TINY for part in ("--set", f"encoder.{each}")),
    *("--set", "training.epochs=2", "--set", "training.batch_size=8"),
    *("--set", "training.checkpoint_seconds=0.001"),
)


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    """Train in a process of its own, with one BLAS thread: sums round by their number."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MLX_DISABLE_COMPILE": "1",
                   "XDG_STATE_HOME": str(folder / "state")}  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen([*CLI, *flags], cwd=folder, env=environment, text=True, stderr=pipe,
                            stdout=subprocess.DEVNULL)  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Return what a process wrote to standard error."""
    _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == code, error
    return error


def begun(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a network trains."""
    while not list(folder.glob("members/fold-*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the workers of a run."""
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], text=True,
                           capture_output=True, check=False)  # fmt: skip
    return [int(line) for line in found.stdout.split()]


def same(one: Path, other: Path) -> None:
    """Compare the files of two runs, and the metrics of their networks."""
    ours, theirs = contents(one), contents(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert metrics(one) == metrics(other)


def contents(folder: Path) -> dict[str, bytes]:
    files = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*")}
    return {
        name: each.read_bytes()
        for name, each in files.items()
        if each.is_file() and each.suffix != ".skops" and each.name not in OF_THE_PROCESS
    }


def metrics(folder: Path) -> list[str]:
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return sorted(
        json.dumps(
            {key: each[key] for key in each if key in ("member", "event", "updates", "loss")}
        )
        for each in lines
        if each["event"] != "checkpoint"
    )


@pytest.mark.slow
def test_workers_end_with_the_main_process_and_the_resumed_run_is_that_of_one(one):
    process = start(one, *FLAGS, "--output", "killed", "--workers", "2")
    begun(one / "killed", process)
    workers = children(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    for worker in workers:
        while is_running(worker):
            time.sleep(0.01)
    said = finish(start(one, "--resume", "--output", "killed", "--workers", "2"))
    assert "training members 12/12" in said  # of both folds: columns, four members, a network
    same(one / "one", one / "killed")


def is_running(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "state=", "-p", str(process)], text=True,
                           capture_output=True, check=False).stdout.strip()  # fmt: skip
    return state not in ("", "Z")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGKILL, 1, "a worker process ended unexpectedly"),
        (signal.SIGINT, 128 + signal.SIGINT, "--resume continues the run"),
    ],
)
def test_a_killed_worker_or_an_interrupt_ends_the_run_with_a_line(one, number, code, message):
    process = start(one, *FLAGS, "--output", number.name, "--workers", "2")
    begun(one / number.name, process)
    os.kill(process.pid if number == signal.SIGINT else children(process)[0], number)
    error = finish(process, code)
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not (one / number.name / "summary.json").exists()


def test_a_cluster_does_the_tasks_of_a_killed_worker_again(one):
    pytest.importorskip("distributed", reason="an optional extra of mlx-kaggle")
    with dask(one, "scheduler", "--port", "0"):
        while not (one / FILE).is_file():
            time.sleep(0.01)
        address = json.loads((one / FILE).read_text())["address"]
        worker = "worker", "--nthreads", "1", "--no-nanny"
        with dask(one, *worker) as first, dask(one, *worker):
            run = start(one, *FLAGS, "--output", "cluster", "--scheduler", address)
            begun(one / "cluster", run)
            first.kill()
            finish(run)
    same(one / "one", one / "cluster")


def test_a_scheduler_that_does_not_answer_is_said_before_anything_is_written(one):
    pytest.importorskip("distributed", reason="an optional extra of mlx-kaggle")
    nobody = start(one, *FLAGS, "--output", "nobody", "--scheduler", "tcp://127.0.0.1:1")
    assert "no dask scheduler answers at tcp://127.0.0.1:1" in finish(nobody, code=1)
    assert not (one / "nobody").exists()


FILE = "scheduler.json"


@contextmanager
def dask(folder: Path, what: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a scheduler or a worker that meet through a file; end it afterwards."""
    words = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", FILE]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MLX_DISABLE_COMPILE": "1"}
    with (folder / f"{what}.log").open("wb") as log:
        process = subprocess.Popen([*words, "--no-dashboard", *flags], cwd=folder, stdout=log,
                                   stderr=log, env=environment)  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--workers", "0"), 2, "0 is not in the range x>=1"),
        (("--workers", "2", "--scheduler", "x"), 2, "--workers are of this machine"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_written(one, flags, code, message):
    assert message in finish(start(one, *FLAGS, "--output", "none", *flags), code)
    assert not (one / "none").exists()
