"""The report of a run: what columns do, slices, thresholds, texts; it only reads the run."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from mlx_kaggle.prediction.blended import results_of
from mlx_kaggle.prediction.decision import Decision
from mlx_kaggle.report.decisions import calibration_curves, threshold_curves
from mlx_kaggle.report.importance import explain
from mlx_kaggle.report.page import write_report
from mlx_kaggle.report.slices import worst_slices
from mlx_kaggle.runs.folder import read_config
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.training.job import prepare_job


@pytest.fixture
def finished(run_cli, write_csv, passengers):
    """Train quick members on rows whose answer is sex and class; return job and results."""

    def train(*flags: str, members: str = "trees,linear", rows: int = 160):
        train = write_csv("train.csv", passengers(rows))
        run_cli("train", "--train", train, "--target", "Survived", "--members", members,
                "--folds", "2", "--output", "run", "--set", "blend.generate=none",
                "--overwrite", *flags)  # fmt: skip
        job = prepare_job(read_config(Path("run")))
        with np.load("run/out_of_fold.npz") as file:
            found = {name[7:]: file[name] for name in file if name.startswith("member ")}
        return results_of(job, found, dict.fromkeys(found, 1.0), histories={}, seconds=200.0)

    return train


def test_permutation_importance_finds_the_columns_of_the_answer(finished):
    results = finished()
    found = explain(Path("run"), results)
    names = [name for name, _, _ in found.importance]
    gains = {name: gain for name, gain, _ in found.importance}
    assert set(names[:2]) == {"Sex", "Pclass"}
    assert gains["Sex"] > 0.5 > abs(gains["Fare"])
    assert "held-out rows of 2 folds" in found.note
    women = next(each for each in found.dependence if each.column == "Sex")
    answer = dict(zip(women.cells, women.answers.mean(0)[:, 0], strict=True))
    assert answer["female"] > answer["male"] + 0.3
    assert answer["male"] < 0.2


def test_the_report_changes_no_file_of_the_run(finished):
    results = finished()
    files = [each for each in Path("run").rglob("*") if each.is_file()]
    before = {each: each.read_bytes() for each in files if each.name != "report.html"}
    write_report(Path("run/report.html"), results, "")
    after = {each: each.read_bytes() for each in Path("run").rglob("*")
             if each.is_file() and each.name != "report.html"}  # fmt: skip
    assert before == after


def test_the_page_has_its_sections_and_asks_for_nothing_from_outside(finished):
    finished("--metric", "f1")
    page = Path("run/report.html").read_text("utf-8")
    for title in ("Permutation importance", "Partial dependence", "Thresholds", "Calibration",
                  "Errors by slice", "Rows as text"):  # fmt: skip
        assert f">{title}<" in page, title
    assert not re.findall(r"<(?:script|link|img)|url\(http", page)
    assert "overflow-x" not in page
    assert page.count("prefers-color-scheme: dark") == 1
    assert 'data-name="accuracy"' in page


def test_a_slice_with_noisy_labels_is_found_and_noise_alone_is_not(finished, passengers):
    results = finished(rows=400)
    job = results.job
    assert worst_slices(results)[0] == []
    prediction, codes = results.prediction.copy(), results.codes.copy()
    third = np.array([job.table["Pclass"][row] == "3" for row in job.scored_rows])
    prediction[third] = 0.5
    changed = replace(results, prediction=prediction, codes=codes)
    worst, count = worst_slices(changed)
    assert count > 8
    assert (worst[0].column, worst[0].what, worst[0].rows) == ("Pclass", "3", int(third.sum()))
    assert worst[0].p_value < 0.05


def test_the_threshold_curve_has_the_chosen_threshold(finished):
    results = replace(finished("--metric", "f1"), decision=Decision(thresholds=(0.3,)))
    metric, (curve,) = threshold_curves(results)
    assert (metric, curve.chosen, curve.name) == ("f1", 0.3, "1")
    truth = results.job.encoded[results.job.scored_rows]
    at = int(np.searchsorted(curve.grid, 0.495))
    right = (results.prediction[:, 1] >= curve.grid[at]) & (truth == 1)
    total = (results.prediction[:, 1] >= curve.grid[at]).sum() + truth.sum()
    assert curve.scores[at] == pytest.approx(2 * right.sum() / total)


def test_calibration_is_shown_before_and_after(finished):
    results = finished()
    curves, line = calibration_curves(results)
    assert line.startswith("Expected calibration error 0.")
    assert set(curves) <= {"as trained", "calibrated"}
    assert "as trained" in curves


@pytest.mark.slow
def test_an_ensemble_says_that_nothing_is_measured(run_cli, finished):
    finished()
    Path("run").rename("first")
    finished("--seed", "0")
    run_cli("ensemble", "first", "run", "--output", "both")
    assert "members are in the folders of other runs" in Path("both/report.html").read_text("utf-8")


def test_texts_are_shown_before_and_after_the_budget(run_cli, write_csv, passengers, tiny_flags):
    train = write_csv("train.csv", passengers(60))
    run_cli("train", "--train", train, "--target", "Survived", "--folds", "2", "--output", "run",
            *tiny_flags, "--set", "text.max_tokens=16", "--set", "training.epochs=1")  # fmt: skip
    page = unescape(Path("run/report.html").read_text("utf-8"))
    assert "<del>" in page
    assert "longer than text.max_tokens (16)" in page
    shown = re.search(r"Row \d+: (\d+) tokens, (\d+) within the budget", page)
    assert shown
    assert int(shown[1]) > 16 >= int(shown[2])
    assert json.loads(Path("run/summary.json").read_text())["metric"] == "accuracy"


def test_the_estimate_still_draws_a_figure(write_csv, passengers):
    from mlx_kaggle.training.estimate import estimate_run

    file = write_csv("train.csv", passengers(60))
    flags = {"data.train": file, "data.target": "Survived", "members": ("linear",)}
    assert estimate_run(prepare_job(resolve_config("quick", flags=flags))).seconds > 0
