"""From the predictions of members to the answer of a run and the scores that are shown."""

import numpy as np
import pytest

from mlx_kaggle.members.catalog import CONSTANT, label_of
from mlx_kaggle.prediction.blended import aligned, blend_members, results_of
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.training.job import prepare_job

ROWS = 240


def job_of(folder, task, metric, *overrides):
    rng = np.random.default_rng(1)
    value = rng.normal(size=ROWS)
    if task == "regression":
        target = np.round(value, 3).astype(str)
    elif task == "binary":
        target = np.where(value + rng.normal(size=ROWS) > 0.8, "yes", "no")
    else:
        levels = np.digitize(value + rng.normal(0, 0.7, ROWS), [-1, 0, 1])
        target = levels.astype(str) if task == "ordinal" else np.array(list("abcd"))[levels]
    lines = [f"{x:.3f},{y}" for x, y in zip(value, target, strict=True)]
    train = folder / "train.csv"
    train.write_text("x,y\n" + "\n".join(lines) + "\n")
    flags = {"data.train": str(train), "data.target": "y", "data.task": task}
    flags["data.metric"] = metric
    return prepare_job(resolve_config("quick", flags=flags, overrides=list(overrides)))


def guesses(job):
    """Predict the scored rows with noise, too surely, and by the constant."""
    truth, rng = job.encoded[job.scored_rows], np.random.default_rng(2)
    if job.competition.task == "regression":
        named = {name: truth + rng.normal(0, noise, truth.shape) for name, noise in NOISE.items()}
        constant = np.full(truth.shape, truth.mean())
    else:
        classes = len(job.competition.classes)
        hot = np.eye(classes)[truth]
        logits = {name: 3 * hot + rng.normal(0, 3 * noise, hot.shape)
                  for name, noise in NOISE.items()}  # fmt: skip
        named = {name: np.exp(each) / np.exp(each).sum(1, keepdims=True)
                 for name, each in logits.items()}  # fmt: skip
        constant = np.tile(hot.mean(0), (len(truth), 1))
        if job.competition.task == "ordinal":
            constant = np.full(len(truth), np.median(truth), np.float64)
    return {label_of(job.competition, CONSTANT): constant, **named}


NOISE = {"one": 0.6, "two": 0.8, "three": 1.2}


@pytest.mark.parametrize(
    ("task", "metric", "overrides"),
    [
        ("ordinal", "quadratic_kappa", ()),
        ("ordinal", "mae", ("decision.calibration=vector",)),
        ("multiclass", "log_loss", ()),
        ("multiclass", "accuracy", ("decision.calibration=vector",)),
        ("binary", "f1", ()),
        ("binary", "f1", ("decision.thresholds=default", "decision.calibration=vector")),
        ("binary", "log_loss", ("folds=0",)),
        ("binary", "roc_auc", ("decision.calibration=isotonic",)),
        ("binary", "accuracy", ("decision.thresholds=fit",)),
        ("regression", "rmse", ()),
    ],
)
def test_members_are_chosen_by_the_scores_that_are_shown(tmp_path, task, metric, overrides):
    job = job_of(tmp_path, task, metric, *overrides)
    predictions = guesses(job)
    found = results_of(job, predictions, dict.fromkeys(predictions, 0.0), histories={}, seconds=0)
    shown = {each.name: each.scores[metric] for each in found.members}
    assert set(shown) == set(predictions)
    for name, score in shown.items():
        assert found.choice.scores[name] == pytest.approx(score, abs=1e-12), name


def test_a_mean_of_ranks_of_ordered_probabilities_predicts_new_rows(tmp_path):
    job = job_of(tmp_path, "ordinal", "quadratic_kappa", "blend.method=rank_mean")
    predictions = guesses(job)
    choice = blend_members(job, predictions)
    assert len(choice.blend.members) >= 2
    new = {name: predictions[name][:7] for name in choice.blend.members}
    assert {each.shape for each in new.values()} == {(7, 4)}
    found = choice.blend.apply(aligned(job.competition, new))
    assert found.shape == (7,)
    whole = {name: expected_class(predictions[name]) for name in choice.blend.members}
    np.testing.assert_allclose(found, choice.blend.apply(whole)[:7])


def expected_class(probabilities):
    return probabilities @ np.arange(probabilities.shape[1])
