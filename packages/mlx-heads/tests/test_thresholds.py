import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_heads import best_threshold, get_metric

METRICS = ["accuracy", "balanced_accuracy", "f1", "mcc"]


def score_at(metric, truth, probability, threshold, weights=None):
    return get_metric(metric)(truth, (probability >= threshold).astype(int), weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 2**16))
def test_no_other_threshold_scores_better(metric, dtype, rows, levels, seed):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, rows)
    probability = (random.integers(0, levels + 1, rows) / levels).astype(dtype)
    weights = random.integers(1, 4, rows) if seed % 2 else None
    threshold = best_threshold(truth, probability, metric, weights)
    score = score_at(metric, truth, probability, threshold, weights)
    cuts = [0.0, 0.5, 2.0, *probability, *np.nextafter(probability, dtype(2))]
    brute = {cut: score_at(metric, truth, probability, cut, weights) for cut in cuts}
    assert score == pytest.approx(max(brute.values()), abs=1e-12)
    if math.isclose(brute[0.5], score, abs_tol=1e-12):
        assert threshold == 0.5


def test_the_threshold_is_halfway_between_the_neighbours():
    assert best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], "f1") == pytest.approx(0.25)


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_chosen():
    # Accuracy 3/4 both at 0.15 (one false positive) and at 0.55 (one false negative).
    assert best_threshold([0, 1, 0, 1], [0.1, 0.2, 0.5, 0.6], "accuracy") == pytest.approx(0.55)


def test_never_predicting_one_is_possible():
    threshold = best_threshold([0, 0, 0], [0.7, 0.9, 1.0], "accuracy")
    assert threshold > 1
    assert not (np.array([0.7, 0.9, 1.0]) >= threshold).any()


def test_neighbouring_float32_probabilities_are_still_separated():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    probability = np.array([low, high])
    threshold = best_threshold([0, 1], probability, "accuracy")
    assert (probability >= threshold).tolist() == [False, True]


def test_two_columns_are_accepted():
    score = np.array([0.1, 0.2, 0.3, 0.4])
    assert best_threshold([0, 0, 1, 1], np.stack([1 - score, score], 1)) == pytest.approx(0.25)


def test_inputs_that_are_not_binary_are_refused():
    with pytest.raises(ValueError, match=r"^best_threshold is for two classes, .* \(1, 3\)$"):
        best_threshold([0], [[0.2, 0.3, 0.5]])
    with pytest.raises(ValueError, match=r"^probability must be in \[0, 1\], got -2 to 3$"):
        best_threshold([0, 1], [-2.0, 3.0])
    message = r"^best_threshold cannot use metric 'acuracy'; did you mean 'accuracy'\?$"
    with pytest.raises(ValueError, match=message):
        best_threshold([0, 1], [0.2, 0.3], "acuracy")
    with pytest.raises(ValueError, match=r"^a metric needs at least one row, got none$"):
        best_threshold([], [])
