import ast
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_heads
from mlx_heads import DEFAULT_METRIC, METRICS, confusion_matrix, get_metric

OPTIONS = {"mase": {"scale": 2.0}}


def random_rows(metric, random, rows):
    """Truth and prediction with ties, of the kind the metric needs."""
    if metric.needs in ("value", "interval"):
        truth, predicted = random.integers(1, 5, (2, rows)) / 1.0
        if metric.needs == "value":
            return truth, predicted
        return truth, np.stack([predicted, predicted + random.integers(0, 2, rows)], axis=1)
    if metric.tasks == ("multilabel",):
        return random.integers(0, 2, (rows, 3)), random.integers(0, 2, (rows, 3))
    classes = 2 if "multiclass" not in metric.tasks else 5
    truth = random.integers(0, classes, rows)
    if metric.needs == "label":
        return truth, random.integers(0, classes, rows)
    parts = random.integers(1, 4, (rows, classes)) / 1.0
    return truth, parts / parts.sum(1, keepdims=True)


def perfect_prediction(metric, truth, predicted):
    if metric.needs == "interval":
        return np.stack([truth, truth], axis=1)
    return np.eye(predicted.shape[1])[truth] if metric.needs == "probability" else truth


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
    options = OPTIONS.get(name, {})
    assert metric(truth, predicted, weights, **options) == pytest.approx(
        metric(truth[repeated], predicted[repeated], **options), rel=1e-9, abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize("name", METRICS)
def test_a_row_of_weight_zero_does_not_count(name):
    metric, options = get_metric(name), OPTIONS.get(name, {})
    truth, predicted = random_rows(metric, np.random.default_rng(3), 20)
    weights = np.r_[np.zeros(5), np.ones(15)]
    assert metric(truth, predicted, weights, **options) == pytest.approx(
        metric(truth[5:], predicted[5:], **options)
    )


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_is_at_least_as_good_as_any_other(name):
    metric, options = get_metric(name), OPTIONS.get(name, {})
    truth, predicted = random_rows(metric, np.random.default_rng(4), 30)
    perfect = perfect_prediction(metric, truth, predicted)
    best, other = metric(truth, perfect, **options), metric(truth, predicted, **options)
    assert best > other if metric.greater_is_better else best < other


def with_repeats(function):
    """A correlation of SciPy with whole weights, as rows repeated."""

    def weighted(y, p, sample_weight):
        rows = np.repeat(np.arange(len(y)), 1 if sample_weight is None else sample_weight)
        return function(y[rows], p[rows]).statistic

    return weighted


# Of what is computed here, not by scikit-learn; its brier and weighted median differ by version.
REFERENCES = {
    "accuracy": sklearn.metrics.accuracy_score,
    "log_loss": sklearn.metrics.log_loss,
    "top3_accuracy": partial(sklearn.metrics.top_k_accuracy_score, k=3),
    "mse": sklearn.metrics.mean_squared_error,
    "rmse": sklearn.metrics.root_mean_squared_error,
    "mae": sklearn.metrics.mean_absolute_error,
    "r2": sklearn.metrics.r2_score,
    "rmsle": sklearn.metrics.root_mean_squared_log_error,
    "mape": sklearn.metrics.mean_absolute_percentage_error,
    "pinball": sklearn.metrics.mean_pinball_loss,
    "pearson": with_repeats(scipy.stats.pearsonr),
    "spearman": with_repeats(scipy.stats.spearmanr),
    "kendall": with_repeats(scipy.stats.kendalltau),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_what_is_not_wrapped_equals_scikit_learn_and_scipy(name, ties):
    random = np.random.default_rng(5)
    metric = get_metric(name)
    if metric.needs == "value":
        truth, predicted = random.lognormal(2, 1, (2, 60)).round(0 if ties else 9) + 1
    else:
        truth = random.integers(0, 4, 60)
        predicted = random.dirichlet(np.ones(4), 60)  # untied: top_k_accuracy_score breaks ties
        predicted = random.integers(0, 4, 60) if metric.needs == "label" else predicted
    for weights in (None, random.integers(0, 3, 60)):
        expected = REFERENCES[name](truth, predicted, sample_weight=weights)
        assert metric(truth, predicted, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rows", [2, 7, 8, 9, 300])
def test_kendall_equals_scipy_for_any_number_of_distinct_values(rows):
    random = np.random.default_rng(rows)
    for levels in (1, 2, 5, 1000):
        truth, predicted = random.integers(0, levels, (2, rows)) / 1.0
        expected = scipy.stats.kendalltau(truth, predicted).statistic
        score = get_metric("kendall")(truth, predicted)
        assert score == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


def test_a_good_score_has_a_large_area_under_the_curve():
    # A known bug, trapezoids over ascending thresholds, gave 0.19 where this is 0.83.
    truth = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1])
    score = np.array([0.1, 0.9, 0.4, 0.35, 0.8, 0.2, 0.6, 0.7, 0.5, 0.58, 0.59])
    assert get_metric("roc_auc")(truth, score) == pytest.approx(25 / 30)
    assert get_metric("roc_auc")(truth, 1 - score) == pytest.approx(5 / 30)


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
    assert DEFAULT_METRIC == {
        "binary": "accuracy",
        "multiclass": "accuracy",
        "multilabel": "f1_macro",
        "ordinal": "quadratic_kappa",
        "regression": "rmse",
        "forecast": "mae",
    }
    assert {task for metric in METRICS.values() for task in metric.tasks} == {*DEFAULT_METRIC}
    assert all(task in METRICS[name].tasks for task, name in DEFAULT_METRIC.items())


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown metric 'rmslee'; did you mean 'rmsle'\?$"):
        get_metric("rmslee")
    with pytest.raises(ValueError, match=r"^unknown metric 'QWK'; did you mean 'quadratic_kappa'"):
        get_metric("QWK")
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
        ("mae", ([[[1]]], [2]), r"y_true must have shape \(N,\) or \(N, T\), got \(1, 1, 1\)"),
        (
            "mae",
            ([[1, 2]], [1]),
            r"y_true and y_pred must have the same shape, got \(1, 2\) and \(1,\)",
        ),
        (
            "coverage",
            ([1, 2], [1, 2]),
            r"y_pred must be lower and upper bounds, \(N, 2\) for y_true \(N,\) or \(N, T, 2\) "
            r"for \(N, T\); got \(2,\) for \(2,\)",
        ),
        ("coverage", ([1], [[2, 1]]), "lower must not exceed upper, row 0 has 2 and 1"),
        (
            "mcc",
            ([[0, 1]], [[0, 1]]),
            r"mcc needs one class per row, got y_true of shape \(1, 2\); metrics of several "
            r"labels: f1_macro, f1_micro, .*, ece",
        ),
        (
            "exact_match",
            ([0, 1], [0, 1]),
            r"exact_match needs \(N, M\) zeros and ones, one column for each label, "
            r"got y_true of shape \(2,\)",
        ),
        (
            "f1_macro",
            ([[0, 1], [0, 0]], [[0, 1], [0.5, 0]]),
            "y_pred must be 0 or 1, row 1, label 0 is 0.5",
        ),
        (
            "quadratic_kappa",
            ([1], [1.5]),
            "quadratic_kappa needs whole class numbers, got 1.5; r.*",
        ),
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


def test_options_of_another_metric_are_refused():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'scale'"):
        get_metric("rmse")([1.0], [1.0], scale=2.0)
    with pytest.raises(ValueError, match=r"^level must be between 0 and 1, got 90$"):
        get_metric("pinball")([1.0], [1.0], level=90)


def test_importing_the_package_imports_no_scikit_learn_or_scipy():
    code = (
        "import sys, mlx_heads\n"
        "mlx_heads.get_metric('accuracy')([0], [0])\n"
        "assert not {'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_thresholds_and_scalers_do_not_import_mlx():
    package = Path(mlx_heads.__file__).parent
    modules = [*(package / "metrics").glob("*.py")]
    names = ("calibration", "cut_points", "intervals", "thresholds", "target_scaler")
    modules += [package / f"{name}.py" for name in names]
    for module in modules:
        imports = [
            node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse(module.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [name for name in imports if name.split(".")[0] == "mlx"], module
