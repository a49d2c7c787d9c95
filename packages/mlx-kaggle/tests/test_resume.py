"""A killed run, resumed, ends with the weights of a run that was not killed."""

import signal
import time

import mlx.core as mx
import numpy as np
import pytest


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_kill_9_and_resume_gives_bit_equal_weights(
    optimizer, tmp_path, passengers, write_csv, tiny_flags, start_cli, run_cli, request
):
    if optimizer == "adamw":  # what is compiled anew continues what was compiled before
        request.getfixturevalue("compiled")
    common = [
        *("--train", write_csv("train.csv", passengers(80)), "--target", "Survived", "--folds", 2),
        *("--optimizer", optimizer),
        *("--set", "training.epochs=4", "--set", "training.batch_size=8"),
        # A checkpoint after every update, so that the kill falls between or into them.
        *("--set", "training.checkpoint_seconds=0.001"),
        *tiny_flags,
    ]
    run_cli("train", *common, "--output", "whole")

    killed = start_cli("train", *common, "--output", "killed")
    checkpoints = tmp_path / "killed" / "members" / "fold-0-seed-0" / "checkpoints"
    while not list(checkpoints.glob("step-*")) and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "summary.json").exists()

    run_cli("train", "--resume", "--output", "killed", "--dry-run")
    assert not (tmp_path / "killed" / "summary.json").exists()
    refused = run_cli("train", "--resume", "--output", "killed", "--overwrite", code=2)
    assert "--resume takes everything from --output; omit --overwrite" in refused.stderr
    run_cli("train", "--resume", "--output", "killed")

    for member in ("fold-0-seed-0", "fold-1-seed-0"):
        for name in ("head.safetensors", "encoder/model.safetensors"):
            files = [tmp_path / run / "members" / member / name for run in ("whole", "killed")]
            ours, theirs = (mx.load(str(file)) for file in files)
            assert ours.keys() == theirs.keys()
            for key in ours:
                np.testing.assert_array_equal(np.array(ours[key]), np.array(theirs[key]), key)
        tables = [tmp_path / run / "members" / member / "optimizer.txt"
                  for run in ("whole", "killed")]  # fmt: skip
        assert [table.exists() for table in tables] == [optimizer == "muon"] * 2
        if optimizer == "muon":
            ours, theirs = (table.read_text() for table in tables)
            assert ours == theirs
            assert "matrices: Muon, rate 0.001 x 0.2 sqrt(max(rows, columns))" in ours
