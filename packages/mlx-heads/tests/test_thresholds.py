import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_heads import best_threshold, best_thresholds, get_metric

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


def f1_of(tp, fp, positives):
    return 2 * tp / (tp + fp + positives) if tp else 0.0


def label_score(metric, truth, predicted, weights):
    """The score of (N, M) labels by its definition, a mean over labels but for micro F1."""
    tp = (weights[:, None] * (truth & predicted)).sum(0)
    fp = (weights[:, None] * (~truth & predicted)).sum(0)
    positives, total = (weights[:, None] * truth).sum(0), weights.sum()
    if metric == "f1_micro":
        return f1_of(tp.sum(), fp.sum(), positives.sum())
    if metric == "f1_macro":
        return np.mean([f1_of(*each) for each in zip(tp, fp, positives, strict=True)])
    if metric == "accuracy":
        return (weights @ (truth == predicted)).mean() / total
    negatives, chosen = total - positives, tp + fp
    if metric == "balanced_accuracy":
        recalls = [
            np.where(p > 0, t / np.maximum(p, 1), np.nan)
            for t, p in ((tp, positives), (negatives - fp, negatives))
        ]
        return np.nanmean(recalls, axis=0).mean()
    spread = np.sqrt(positives * negatives * chosen * (total - chosen))
    return np.where(spread > 0, (tp * negatives - fp * positives) / np.maximum(spread, 1), 0).mean()


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "mcc"])
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**16))
def test_no_other_thresholds_of_labels_score_better(metric, rows, labels, levels, seed):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, (rows, labels))
    probability = random.integers(0, levels + 1, (rows, labels)) / levels
    weights = random.integers(1, 4, rows) if seed % 2 else np.ones(rows, int)
    thresholds = best_thresholds(truth, probability, metric, weights if seed % 2 else None)
    assert thresholds.shape == (labels,)
    score = label_score(metric, truth == 1, probability >= thresholds, weights)
    every = itertools.product(*([*set(column.tolist()), 2.0] for column in probability.T))
    best = max(label_score(metric, truth == 1, probability >= each, weights) for each in every)
    assert score == pytest.approx(best, abs=1e-12)


def test_each_label_of_macro_f1_has_the_threshold_it_has_alone():
    random = np.random.default_rng(2)
    truth, probability = random.integers(0, 2, (50, 3)), random.uniform(size=(50, 3))
    alone = [best_threshold(truth[:, m], probability[:, m], "f1") for m in range(3)]
    assert best_thresholds(truth, probability).tolist() == alone


def test_micro_f1_may_give_up_a_rare_label():
    # Alone, label 1 has its best F1 where 9 of 10 predictions are false; they would cost label 0.
    truth = np.array([[1, 1]] + [[1, 0]] * 9)
    probability = np.array([[0.9, 0.1]] + [[0.9, 0.2]] * 9)
    assert best_thresholds(truth, probability, "f1_macro")[1] < 0.1
    assert best_thresholds(truth, probability, "f1_micro")[1] > 0.2


def test_labels_that_are_no_matrix_are_refused():
    message = r"^y_true must be \(N, M\) numbers 0 and 1, one column for each label, got int64 of "
    with pytest.raises(ValueError, match=message + r"shape \(2,\)$"):
        best_thresholds([0, 1], [0.2, 0.3])
    with pytest.raises(ValueError, match=r"^y_true must be 0 or 1, row 1, label 0 is 2$"):
        best_thresholds([[0], [2]], [[0.2], [0.3]])
    message = r"^y_true and y_pred must have the same shape, got \(2, 1\) and \(2, 2\)$"
    with pytest.raises(ValueError, match=message):
        best_thresholds([[0], [1]], [[0.2, 0.1], [0.3, 0.3]])
    message = r"^best_thresholds cannot use metric 'f1'; valid: accuracy, balanced_accuracy, f1_"
    with pytest.raises(ValueError, match=message):
        best_thresholds([[0], [1]], [[0.2], [0.3]], "f1")
