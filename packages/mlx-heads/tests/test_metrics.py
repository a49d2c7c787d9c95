import ast
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_heads
from mlx_heads import DEFAULT_METRIC, METRICS, confusion_matrix, get_metric

KINDS = ["label", "probability", "value"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_equals_scikit_learn(reference_scores, kind):
    wrong, covered = [], set()
    for case, values in reference_scores[kind].items():
        for name, expected in values["scores"].items():
            covered.add(name)
            score = get_metric(name)(values["y_true"], values["y_pred"], values["sample_weight"])
            # 1e-12: a few roundings of float64.
            if not np.isclose(score, expected, rtol=1e-12, atol=1e-12, equal_nan=True):
                wrong.append((case, name, score, expected))
    assert wrong == []
    assert covered == {name for name, metric in METRICS.items() if metric.needs == kind}


def random_rows(metric, random, rows):
    """Truth and prediction with ties, of the kind the metric needs."""
    if metric.needs == "value":
        return random.integers(1, 5, rows) / 1.0, random.integers(1, 5, rows) / 1.0
    classes = 2 if metric.tasks == ("binary",) else 3
    truth = random.integers(0, classes, rows)
    if metric.needs == "label":
        return truth, random.integers(0, classes, rows)
    parts = random.integers(1, 4, (rows, classes)) / 1.0
    return truth, parts / parts.sum(1, keepdims=True)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**16))
def test_integer_weights_equal_repeated_rows_in_any_order(name, rows, seed):
    random = np.random.default_rng(seed)
    metric = get_metric(name)
    truth, predicted = random_rows(metric, random, rows)
    weights = random.integers(1, 4, rows)
    repeated = random.permutation(np.repeat(np.arange(rows), weights))
    # 1e-9: the correlations of nearly constant rows cancel.
    assert metric(truth, predicted, weights) == pytest.approx(
        metric(truth[repeated], predicted[repeated]), rel=1e-9, abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize("name", METRICS)
def test_a_row_of_weight_zero_does_not_count(name):
    metric = get_metric(name)
    truth, predicted = random_rows(metric, np.random.default_rng(3), 20)
    weights = np.r_[np.zeros(5), np.ones(15)]
    assert metric(truth, predicted, weights) == pytest.approx(metric(truth[5:], predicted[5:]))


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_is_at_least_as_good_as_any_other(name):
    metric = get_metric(name)
    truth, predicted = random_rows(metric, np.random.default_rng(4), 30)
    perfect = np.eye(3 if predicted.shape[-1] == 3 else 2)[truth] if predicted.ndim == 2 else truth
    best, other = metric(truth, perfect), metric(truth, predicted)
    assert best > other if metric.greater_is_better else best < other


def test_area_under_the_curve_is_the_share_of_ordered_pairs():
    random = np.random.default_rng(0)
    truth, score = random.integers(0, 2, 40), random.integers(0, 6, 40) / 5
    pairs = score[truth == 1][:, None] - score[truth == 0][None]
    share = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    assert get_metric("roc_auc")(truth, score) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "log_loss", "brier"])
def test_two_columns_equal_the_column_of_class_one(name):
    truth, score = np.array([0, 1, 1, 0, 1]), np.array([0.2, 0.7, 0.4, 0.4, 0.9])
    both = np.stack([1 - score, score], axis=1)
    assert get_metric(name)(truth, both) == pytest.approx(get_metric(name)(truth, score), abs=1e-12)


def test_rank_metrics_take_scores_that_are_no_probabilities():
    assert get_metric("roc_auc")([0, 1, 1], [-3.0, 2.0, 7.0]) == 1.0
    assert get_metric("average_precision")([0, 1, 1], [-3.0, 2.0, 7.0]) == 1.0


def test_log_loss_of_a_saturated_float32_is_clipped_in_float32():
    loss = get_metric("log_loss")([1], np.array([0.0], np.float32))
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).eps))


def test_an_average_of_probabilities_that_rounds_beyond_one_is_accepted():
    assert get_metric("log_loss")([1, 0], [1 + 1e-15, -1e-15]) == pytest.approx(0, abs=1e-12)
    assert get_metric("brier")([1], [1 + 1e-15]) == pytest.approx(0, abs=1e-12)


def test_undefined_scores_are_nan():
    assert math.isnan(get_metric("roc_auc")([1, 1], [0.2, 0.4]))
    assert math.isnan(get_metric("r2")([1.0], [1.0]))
    assert math.isnan(get_metric("pearson")([1.0, 2.0], [3.0, 3.0]))
    assert math.isnan(get_metric("spearman")([1.0, 1.0], [3.0, 4.0]))
    assert math.isnan(get_metric("quadratic_kappa")([2, 2], [2, 2]))
    assert math.isnan(get_metric("quadratic_kappa")([3, 3, 0], [3, 3, 1], [0.1, 0.7, 0.0]))


def test_a_truth_that_is_constant_where_weights_are_positive_is_constant():
    r2 = get_metric("r2")
    assert r2([0.1, 0.1, 9.0], [0.1, 0.1, 0.0], [0.3, 0.7, 0.0]) == 1.0
    assert r2([0.1, 0.1, 9.0], [0.1, 0.2, 0.0], [0.3, 0.7, 0.0]) == 0.0


def test_labels_may_be_booleans_or_objects():
    accuracy, f1 = get_metric("accuracy"), get_metric("f1")
    assert accuracy(np.array(["a", "b"], object), ["a", "a"]) == 0.5
    assert f1([True, False, True], [1, 0, 0]) == pytest.approx(2 / 3)


def test_confusion_matrix_has_a_row_for_each_true_class():
    matrix = confusion_matrix([0, 0, 2, 2], [0, 2, 2, 2], 4)
    assert matrix.dtype.kind == "i"
    assert matrix.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match=r"^y_pred must be class numbers 0 to 1$"):
        confusion_matrix([0, 1], [0, 2], 2)


def test_each_task_has_a_default_metric_that_applies_to_it():
    assert DEFAULT_METRIC == {"binary": "accuracy", "multiclass": "accuracy", "regression": "rmse"}
    assert all(task in METRICS[name].tasks for task, name in DEFAULT_METRIC.items())


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown metric 'rmslee'; did you mean 'rmsle'\?$"):
        get_metric("rmslee")
    with pytest.raises(ValueError, match=r"^unknown metric 'zzz'; valid: accuracy, balanced_"):
        get_metric("zzz")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("accuracy", ([], []), "a metric needs at least one row, got none"),
        ("rmse", ([], []), "a metric needs at least one row, got none"),
        ("log_loss", ([], []), "a metric needs at least one row, got none"),
        ("roc_auc", ([], np.zeros((0, 3))), "a metric needs at least one row, got none"),
        ("rmse", ([1], [1, 2]), "y_true and y_pred must have the same rows, got 1 and 2"),
        ("rmse", ([1, 2], [1, math.nan]), "y_pred must be finite, row 1 is nan"),
        ("mae", ([[1]], [[2]]), r"y_true must have shape \(N,\), got \(1, 1\); score each column"),
        (
            "accuracy",
            ([0], [[0.5, 0.5]]),
            r"y_pred must have one label per row, got shape \(1, 2\); "
            r"take the argmax of probabilities first",
        ),
        (
            "f1",
            ([0, 1], [1, 2]),
            r"this metric needs classes 0 and 1, got labels \[2\]; "
            r"encode them as 0 and 1, or use f1_macro",
        ),
        (
            "log_loss",
            ([0, 2], [0.1, 0.2]),
            "y_true must be class numbers 0 to 1, row 1 is 2",
        ),
        (
            "log_loss",
            ([0], [[2.0, -1.0]]),
            r"y_pred must be in \[0, 1\], got -1 to 2",
        ),
        ("brier", ([0], [[0.9, 0.9]]), "rows of y_pred must sum to one, row 0 sums to 1.8"),
        (
            "average_precision",
            ([0], [[0.2, 0.3, 0.5]]),
            r"this metric is for two classes, got probabilities of shape \(1, 3\)",
        ),
        ("rmsle", ([0, 1], [0, -1]), "rmsle needs y_pred above -1, row 1 is -1"),
        ("rmse_log", ([0.0], [1.0]), "rmse_log needs y_true above 0, row 0 is 0"),
        ("rmse", ([1], [1], [0]), "sample_weight must be finite, not negative, and not all zero"),
        ("rmse", ([1], [1], [1, 1]), r"sample_weight must have shape \(1,\), got \(2,\)"),
    ],
)
def test_invalid_inputs_of_a_metric_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        get_metric(name)(*arguments)


def test_numbers_and_strings_do_not_mix():
    with pytest.raises(
        TypeError, match=r"^y_true and y_pred must both be numbers or both be strings"
    ):
        get_metric("accuracy")([0, 1], ["0", "1"])
    with pytest.raises(
        TypeError, match=r"^quadratic_kappa needs ordered class numbers, got strings$"
    ):
        get_metric("quadratic_kappa")(["a"], ["b"])


def test_metrics_thresholds_and_scalers_do_not_import_mlx():
    package = Path(mlx_heads.__file__).parent
    modules = [*(package / "metrics").glob("*.py")]
    modules += [package / name for name in ("calibration.py", "thresholds.py", "target_scaler.py")]
    for module in modules:
        imports = [
            node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse(module.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [name for name in imports if name.split(".")[0] == "mlx"], module
