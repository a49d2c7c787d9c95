import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_heads import apply_cut_points, best_cut_points

DISTANCES = {
    "quadratic_kappa": np.square,
    "linear_kappa": np.abs,
    "cohen_kappa": np.sign,
    "accuracy": np.sign,
    "mae": np.abs,
}


def quality(metric, truth, predicted, weights, classes):
    """The metric by its definition, from the (K, K) table of observed and expected shares."""
    distance = DISTANCES[metric](np.abs(np.subtract.outer(range(classes), range(classes)))) * 1.0
    observed = np.zeros((classes, classes))
    for i, j, weight in zip(truth, predicted, weights, strict=True):
        observed[i, j] += weight / sum(weights)
    if not metric.endswith("kappa"):
        return -(observed * distance).sum()
    expected = np.outer(observed.sum(1), observed.sum(0))
    chance = (expected * distance).sum()
    return 1 - (observed * distance).sum() / chance if chance else -np.inf


def best_of_all(metric, truth, score, weights, classes):
    distinct, group = np.unique(score, return_inverse=True)
    runs = itertools.combinations_with_replacement(range(classes), len(distinct))
    return max(quality(metric, truth, np.array(each)[group], weights, classes) for each in runs)


@pytest.mark.parametrize("metric", DISTANCES)
@given(st.integers(1, 9), st.integers(2, 5), st.integers(1, 8), st.integers(0, 2**16))
def test_no_other_cut_points_score_better(metric, rows, classes, levels, seed):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    score = random.integers(-levels, levels + 1, rows) / 2
    weights = random.integers(1, 4, rows) if seed % 2 else np.ones(rows)
    points = best_cut_points(truth, score, classes, metric, weights if seed % 2 else None)
    assert points.shape == (classes - 1,)
    found = quality(metric, truth, apply_cut_points(score, points), weights, classes)
    best = best_of_all(metric, truth, score, weights, classes)
    if metric.endswith("kappa") and len(set(truth.tolist())) == 1:  # 0 or undefined everywhere
        assert (apply_cut_points(score, points) == truth).all()
    else:
        assert found == pytest.approx(best, abs=1e-12)


def test_a_cut_point_is_halfway_between_scores_or_infinite():
    points = best_cut_points([1, 1, 2], [0.0, 1.0, 3.0], 4)
    assert points.tolist() == [-np.inf, 2.0, np.inf]
    assert apply_cut_points([-9.0, 1.9, 2.0, 99.0], points).tolist() == [1, 1, 2, 2]


def test_rounding_to_the_nearest_class_is_not_better_on_shrunk_scores():
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 2000)
    score = 2 + 0.4 * (truth - 2) + 0.3 * random.normal(size=2000)  # a regression shrinks
    points = best_cut_points(truth, score, 5)
    rounded = quality("quadratic_kappa", truth, np.rint(score).astype(int), np.ones(2000), 5)
    chosen = quality("quadratic_kappa", truth, apply_cut_points(score, points), np.ones(2000), 5)
    assert chosen > rounded + 0.1


def test_rows_of_weight_zero_do_not_count():
    points = best_cut_points([0, 1, 0], [0.0, 1.0, 5.0], 2, sample_weight=[1, 1, 0])
    assert points.tolist() == [0.5]


def test_neighbouring_float32_scores_are_still_separated():
    low = np.float32(0.3)
    score = np.array([low, np.nextafter(low, np.float32(1))])
    assert apply_cut_points(score, best_cut_points([0, 1], score, 2)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0.0, 1.0], 2, "qwk"), "best_cut_points cannot use metric 'qwk'; valid: quad"),
        (([0, 2], [0.0, 1.0], 2), "y_true must be class numbers 0 to 1, row 1 is 2$"),
        (([0, 1], [0.0], 2), "y_true and score must have the same rows, got 2 and 1$"),
        (([0, 1], [[0.0, 1.0]], 2), r"score must have shape \(N,\), got \(1, 2\)$"),
        (([0, 1], [0.0, np.nan], 2), "score must be finite, row 1 is nan$"),
        (([0, 0], [0.0, 1.0], 1), "num_classes must be at least 2, got 1$"),
        (([], [], 2), "a metric needs at least one row, got none$"),
    ],
)
def test_inputs_without_cut_points_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        best_cut_points(*arguments)


def test_cut_points_out_of_order_are_refused():
    message = r"^cut_points must be \(K - 1,\) increasing numbers, got \[2\. 1\.\]$"
    with pytest.raises(ValueError, match=message):
        apply_cut_points([0.0], [2.0, 1.0])
