import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("resumable_run.py")


def run(folder, kill_at="never"):
    command = [sys.executable, str(SCRIPT), str(folder), kill_at]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def outcome(folder):
    """Return the final weights' bytes and the logged lines without their times."""
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    entries = [{**json.loads(line), "time": None} for line in lines]
    return (folder / "final.safetensors").read_bytes(), entries


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    finished = run(folder)
    assert finished.returncode == 0, finished.stderr
    return outcome(folder)


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
    for kill_at in kills:
        killed = run(tmp_path, kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run(tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert outcome(tmp_path) == uninterrupted
