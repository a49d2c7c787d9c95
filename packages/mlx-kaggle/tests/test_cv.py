"""`cv` and `baseline`: the scores of a run, without the run."""

import json

import pytest


@pytest.fixture
def flags(passengers, write_csv):
    return ["--train", write_csv("train.csv", passengers(60)), "--target", "Survived",
            "--folds", "2"]  # fmt: skip


def test_a_baseline_has_the_scores_of_a_run_and_keeps_nothing(flags, run_cli, tmp_path):
    members = ("--members", "linear,trees", "--set", "blend.generate=none")
    run = json.loads(run_cli("train", *flags, *members, "--output", "run", "--json").stdout)
    before = sorted(tmp_path.iterdir())
    found = json.loads(run_cli("baseline", *flags, "--json").stdout)
    assert found["scores"] == run["scores"]
    assert list(found["members"]) == list(run["members"])
    assert sorted(tmp_path.iterdir()) == before


def test_repeats_have_other_folds_and_a_standard_error(flags, run_cli):
    common = (*flags, "--members", "linear", "--set", "blend.generate=none", "--repeats", "2")
    found = json.loads(run_cli("cv", *common, "--json").stdout)
    scores = [each["scores"]["linear"]["accuracy"] for each in found["runs"]]
    assert found["scores"]["linear"]["mean"] == pytest.approx(sum(scores) / 2)
    assert found["scores"]["linear"]["standard_error"] == pytest.approx(
        abs(scores[0] - scores[1]) / 2
    )
    losses = [each["scores"]["linear"]["log_loss"] for each in found["runs"]]
    assert losses[0] != losses[1]
    shown = run_cli("cv", *common).stdout
    assert "accuracy, 2 cross-validations:" in shown
    assert "next: mlx-kaggle predict" not in shown


@pytest.mark.parametrize("command", ["cv", "baseline"])
def test_train_and_target_are_needed(command, flags, run_cli):
    assert "Missing option '--train'" in run_cli(command, code=2).stderr
    assert "Missing option '--target'" in run_cli(command, *flags[:2], code=2).stderr
