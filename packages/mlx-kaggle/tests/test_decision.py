"""Calibration, thresholds and widths, fitted on rows that were not trained on."""

import json

import numpy as np
import pytest

from mlx_heads import get_metric
from mlx_kaggle.prediction.decision import MIN_ROWS, Decision, cross_fit, parts_of
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.settings.sections import DecisionSettings
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.training.job import Job
from mlx_tabtext import Schema


def competition(task, metric, classes=(), targets=("y",)):
    return Competition(Schema(()), targets, task, metric, classes, None)


BINARY = competition("binary", "f1", ("no", "yes"))
LABELS = competition("multilabel", "f1_macro", ("a", "b"), ("a", "b"))
ORDERED = competition("ordinal", "quadratic_kappa", ("1", "2", "3"))
VALUE = competition("regression", "rmse")


def fit(kind, encoded, prediction, **settings):
    return Decision.fit(kind, DecisionSettings(**settings), encoded, prediction, 0.9)


@pytest.fixture
def timid():
    """Labels, and probabilities that rank them well but never reach one half."""
    rng = np.random.default_rng(0)
    y = (rng.random(400) < 0.3).astype(np.int64)
    p = np.clip(0.15 + 0.2 * y + rng.normal(0, 0.05, 400), 0.01, 0.45)
    return y, np.stack([1 - p, p], 1)


def test_a_fitted_threshold_finds_positives_that_one_half_misses(timid):
    y, p = timid
    decision = fit(BINARY, y, p, calibration="none")
    assert 0.2 < decision.thresholds[0] < 0.35
    assert get_metric("f1")(y, decision.apply(BINARY, p)[1]) > 0.95
    assert get_metric("f1")(y, Decision().apply(BINARY, p)[1]) == 0


def test_accuracy_keeps_one_half_unless_asked(timid):
    y, p = timid
    accuracy = competition("binary", "accuracy", ("no", "yes"))
    assert fit(accuracy, y, p).thresholds == ()
    assert fit(accuracy, y, p, thresholds="fit").thresholds != ()
    assert fit(BINARY, y, p, thresholds="default").thresholds == ()


def test_calibration_lowers_the_loss_and_keeps_the_order(timid):
    y, p = timid
    decision = fit(BINARY, y, p, thresholds="default", calibration="vector")
    calibrated, _ = decision.apply(BINARY, p)
    loss = get_metric("log_loss")
    assert loss(y, calibrated) < loss(y, p)
    assert (np.argsort(calibrated[:, 1], kind="stable") == np.argsort(p[:, 1], kind="stable")).all()


def test_each_label_has_its_own_threshold():
    rng = np.random.default_rng(1)
    y = (rng.random((300, 2)) < [0.4, 0.05]).astype(np.int64)
    p = np.clip(y * [0.5, 0.1] + rng.random((300, 2)) * [0.4, 0.08], 0, 1)
    low, high = fit(LABELS, y, p, calibration="none").thresholds[::-1]
    assert low < 0.15 < 0.35 < high


def test_cut_points_of_ordered_classes_work_on_chances_and_on_values():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 300)
    shrunk = 1 + 0.2 * (y - 1) + rng.normal(0, 0.02, 300)  # a regression to the mean
    decision = fit(ORDERED, y, shrunk)
    assert len(decision.thresholds) == 2
    assert get_metric("quadratic_kappa")(y, decision.apply(ORDERED, shrunk)[1]) > 0.95
    assert get_metric("quadratic_kappa")(y, Decision().apply(ORDERED, shrunk)[1]) == 0
    chances = np.stack([1.2 - shrunk * 0.6, shrunk * 0.2, shrunk * 0.4 - 0.2], 1)
    chances = np.clip(chances, 0.01, 1)
    chances /= chances.sum(1, keepdims=True)
    found = fit(ORDERED, y, chances, calibration="none").apply(ORDERED, chances)[1]
    assert get_metric("quadratic_kappa")(y, found) > 0.9


def test_intervals_get_the_width_that_covers():
    rng = np.random.default_rng(3)
    y = rng.normal(size=1000)
    narrow = np.broadcast_to(np.array([0.0, -0.5, 0.5]), (1000, 1, 3))
    decision = fit(VALUE, y, narrow)
    covered, codes = decision.apply(VALUE, narrow)
    assert codes is None
    assert 3.0 < decision.interval_scale < 3.6
    inside = (covered[:, 0, 1] <= y) & (y <= covered[:, 0, 2])
    assert 0.89 < inside.mean() < 0.92


def test_few_rows_fit_nothing_and_say_so():
    y, p = np.array([0, 1] * 10), np.full((20, 2), 0.5)
    decision = fit(BINARY, y, p)
    assert decision.thresholds == ()
    assert decision.calibration is None
    assert decision.describe(BINARY) == [
        f"20 held-out rows are fewer than {MIN_ROWS}: nothing is fitted"
    ]


@pytest.mark.parametrize("kind", ["binary", "labels", "ordered", "value"])
def test_a_decision_survives_json(kind, timid):
    y, p = timid
    if kind == "binary":
        task, prediction = BINARY, p
    elif kind == "labels":
        task, y, prediction = LABELS, np.stack([y, 1 - y], 1), p[:, ::-1].copy()
    elif kind == "ordered":
        task, prediction = ORDERED, p[:, 1] * 2
    else:
        task, y = VALUE, y.astype(float)
        prediction = np.stack([p[:, 1], p[:, 1] - 0.1, p[:, 1] + 0.1], 1)[:, None]
    decision = fit(task, y, prediction)
    again = Decision.from_dict(json.loads(json.dumps(decision.to_dict())))
    assert again == decision
    for ours, theirs in zip(
        decision.apply(task, prediction), again.apply(task, prediction), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_no_row_is_decided_by_itself(timid):
    """Changing the truth of one part changes only the decisions of the others."""
    y, p = timid
    parts = parts_of([100, 150, 150], False, seed=0)
    assert [len(part) for part in parts] == [100, 150, 150]
    settings = DecisionSettings()
    calibrated, codes = cross_fit(BINARY, settings, y, p, parts, 0.9)
    flipped = y.copy()
    flipped[parts[1]] = 1 - flipped[parts[1]]
    other, other_codes = cross_fit(BINARY, settings, flipped, p, parts, 0.9)
    np.testing.assert_array_equal(other[parts[1]], calibrated[parts[1]])
    np.testing.assert_array_equal(other_codes[parts[1]], codes[parts[1]])
    assert not np.array_equal(other[parts[0]], calibrated[parts[0]])


def test_one_validation_set_is_split_at_random_and_a_forecast_in_time():
    random = parts_of([23], False, seed=0)
    assert sorted(np.concatenate(random)) == list(range(23))
    assert len(random) == 5
    assert (np.diff(random[0]) != 1).any()
    blocks = parts_of([23], True, seed=0)
    assert (np.concatenate(blocks) == np.arange(23)).all()


def test_the_area_under_the_curve_is_that_of_one_map(timid):
    """Each part has its own calibration, which would mix up the order of rows."""
    y, p = timid
    areas = competition("binary", "roc_auc", ("no", "yes"))
    rows = np.arange(len(y))
    job = Job(resolve_config(), areas, {}, y, [(rows, rows)], [], rows)
    scores = job.decided_scores(p, job.decide(p))
    assert scores["roc_auc"] == get_metric("roc_auc")(y, p)
    assert scores["log_loss"] < get_metric("log_loss")(y, p)


def test_a_single_part_has_no_others_that_it_could_be_calibrated_by():
    rng = np.random.default_rng(0)
    truth, chance = rng.integers(0, 2, 80), rng.random(80)
    prediction = np.stack([1 - chance, chance], 1)
    found, codes = cross_fit(BINARY, DecisionSettings(), truth, prediction, [np.arange(80)], 0.9)
    np.testing.assert_array_equal(found, prediction)
    np.testing.assert_array_equal(codes, chance > 0.5)
