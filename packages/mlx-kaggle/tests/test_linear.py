"""The linear model a network starts from."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression, Ridge

from mlx_kaggle.members.linear import ABSENT, LOGISTIC_ALPHA, _Solver, fit_linear
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.files import Tables
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.splits import split_rows


def understand_table(table, target="Survived", task=None):
    data = DataSettings(train="train.csv", target=target, task=task)
    return infer_competition(data, Tables(table, None, None, None, ()))


@pytest.fixture
def understood(passengers):
    table = {name: [str(cell) for cell in cells] for name, cells in passengers(90).items()}
    competition = understand_table(table)
    return competition, table, np.array([competition.classes.index(y) for y in table["Survived"]])


def test_each_training_row_is_judged_by_a_model_that_has_not_seen_it(understood):
    competition, table, y = understood
    options = {"numeric_features": True, "words": True, "seed": 4}
    linear, held_out = fit_linear(competition, table, y, "classes", **options)
    features = linear.features.transform(table)
    whole = LogisticRegression(C=1 / LOGISTIC_ALPHA, max_iter=200).fit(features, y)
    np.testing.assert_allclose(linear.outputs(table), whole.decision_function(features), atol=1e-3)
    rows, held = split_rows(y, "binary", 5, 0.0, 4)[2]
    part = LogisticRegression(C=1 / LOGISTIC_ALPHA, max_iter=200).fit(features[rows], y[rows])
    np.testing.assert_allclose(held_out[held], part.decision_function(features[held]), atol=1e-3)


def test_nothing_asked_for_is_no_model(understood):
    competition, table, y = understood
    options = {"numeric_features": False, "words": False, "seed": 0}
    nothing = fit_linear(competition, table, y, "classes", **options)
    assert nothing == (None, None)


@pytest.mark.parametrize("present", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_a_class_without_training_rows_is_unlikely(present):
    random = np.random.default_rng(0)
    targets = np.resize(present, 30)
    matrix = random.normal(size=(30, 4)) + 3 * targets[:, None]
    weight, bias = _Solver("classes", 3, LOGISTIC_ALPHA)(matrix, targets)
    logits = matrix @ weight + bias
    assert (logits.argmax(1) == targets).mean() > 0.9
    for absent in set(range(3)) - set(present):
        assert (logits[:, absent] == ABSENT).all()


def test_a_regression_keeps_the_penalty_that_predicts_best():
    random = np.random.default_rng(1)
    x = random.normal(size=40)
    table = {"x": [str(value) for value in x], "y": [str(3 * value) for value in x]}
    competition = understand_table(table, "y", task="regression")
    linear, held_out = fit_linear(
        competition, table, 3 * x, "values", numeric_features=True, words=True, seed=0
    )
    # Without noise the weakest penalty wins: 40 rows shrink by 1 / (1 + alpha / 40).
    spread = linear.features.scales[0].deviation
    np.testing.assert_allclose(linear.weight[0, 0], 3 * spread / (1 + 1 / 40), rtol=1e-3)
    assert np.abs(held_out - 3 * x).max() < 1


def test_labels_are_fitted_one_by_one():
    random = np.random.default_rng(2)
    matrix = csr_array(random.normal(size=(60, 4)))
    targets = (random.random((60, 3)) < [0.5, 0.2, 0.0]).astype(np.int64)
    weight, bias = _Solver("labels", 3, LOGISTIC_ALPHA)(matrix, targets)
    alone = LogisticRegression(C=1 / LOGISTIC_ALPHA, max_iter=200).fit(matrix, targets[:, 1])
    np.testing.assert_allclose(weight[:, 1], alone.coef_[0], atol=1e-4)
    np.testing.assert_allclose(bias[1], alone.intercept_[0], atol=1e-4)
    assert bias[2] == ABSENT
    assert not weight[:, 2].any()


def test_several_targets_are_separate_regressions():
    random = np.random.default_rng(3)
    matrix, targets = csr_array(random.normal(size=(50, 3))), random.normal(size=(50, 2))
    weight, bias = _Solver("values", 0, 10.0)(matrix, targets)
    for at in range(2):
        alone = Ridge(alpha=10.0).fit(matrix, targets[:, at])
        np.testing.assert_allclose(weight[:, at], alone.coef_, atol=1e-5)
        np.testing.assert_allclose(bias[at], alone.intercept_, atol=1e-5)


def test_an_ordered_model_has_one_slope_and_decreasing_biases():
    random = np.random.default_rng(4)
    x = random.normal(size=(4000, 2))
    latent = x @ [2.0, -1.0] + random.logistic(size=4000)
    targets = np.searchsorted([-1.0, 0.5, 3.0], latent)  # the thresholds of the logits
    weight, bias = _Solver("ordered", 4, 1e-3)(csr_array(x), targets)
    assert (weight == weight[:, :1]).all()
    np.testing.assert_allclose(weight[:, 0], [2.0, -1.0], atol=0.15)
    np.testing.assert_allclose(bias, [1.0, -0.5, -3.0], atol=0.2)


@pytest.mark.parametrize("present", [[0], [2], [0, 2], [0, 1]])
def test_an_ordered_model_without_rows_of_a_class_stays_ordered(present):
    targets = np.resize(present, 30)
    matrix = csr_array(np.random.default_rng(0).normal(size=(30, 4)) + 3 * targets[:, None])
    weight, bias = _Solver("ordered", 3, LOGISTIC_ALPHA)(matrix, targets)
    assert np.isfinite(weight).all()
    assert (np.diff(bias) <= 0).all()
