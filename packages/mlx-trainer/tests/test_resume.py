import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("resumable_run.py")


def run(folder, threads, kill_at="never"):
    command = [sys.executable, str(SCRIPT), str(folder), kill_at, str(threads)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def outcome(folder):
    """Return the final weights' bytes and the logged lines without their times."""
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    entries = [{**json.loads(line), "time": None} for line in lines]
    return (folder / "final.safetensors").read_bytes(), entries


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a function that runs to the end with so many threads, once, and gives the outcome."""

    @functools.cache
    def run_once(threads):
        folder = tmp_path_factory.mktemp("uninterrupted")
        finished = run(folder, threads)
        assert finished.returncode == 0, finished.stderr
        return outcome(folder)

    return run_once


# Updates: before the first checkpoint, between two, mid-epoch, and the last of an epoch. Syncs: a
# checkpoint syncs three files and its folder, the checkpoints' folder, the pointer and that folder
# again; best weights are one more at the end of an epoch.
@pytest.mark.parametrize(
    "kills",
    [
        ["update:1"],
        ["update:5"],
        ["update:7", "update:4", "update:1"],
        ["sync:3", "sync:5"],
        ["sync:10", "sync:13"],
        ["sync:16", "sync:17"],
        ["sync:22", "update:2", "sync:6"],
    ],
    ids=lambda kills: "-then-".join(kills).replace(":", "-"),
)
def test_a_killed_run_ends_with_the_weights_and_log_of_one_that_was_not(
    tmp_path, uninterrupted, kills
):
    kill_and_resume(tmp_path, kills, threads=1)
    assert outcome(tmp_path) == uninterrupted(1)


@pytest.mark.parametrize("kills", [["update:5"], ["update:7", "update:4", "sync:5"]])
def test_a_killed_run_of_two_threads_ends_as_one_that_was_not(tmp_path, uninterrupted, kills):
    kill_and_resume(tmp_path, kills, threads=2)
    assert outcome(tmp_path) == uninterrupted(2)
    assert outcome(tmp_path)[0] != uninterrupted(1)[0]  # its dropout is another


def kill_and_resume(folder, kills, threads):
    for kill_at in kills:
        killed = run(folder, threads, kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run(folder, threads)
    assert finished.returncode == 0, finished.stderr
