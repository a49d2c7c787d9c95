"""The decision threshold of a binary classifier, chosen on held-out predictions."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean
from mlx_heads.metrics import inputs

ThresholdMetric = Literal["accuracy", "balanced_accuracy", "f1", "mcc"]

# Equal scores of different thresholds may differ by rounding.
_TIE = 1e-12


def best_threshold(
    y_true: ArrayLike,
    probability: ArrayLike,
    metric: ThresholdMetric = "f1",
    sample_weight: ArrayLike | None = None,
) -> float:
    """Return the t for which `probability >= t` has the best score of all thresholds, O(N log N).

    `y_true` (N,) is 0 or 1, `probability` (N,) of class 1 or (N, 2). t is halfway between two
    adjacent probabilities, or 0.5 if that is equivalent; of equally good thresholds it is the one
    nearest 0.5. It exceeds 1 if it is best to never predict 1. Use rows that the model was not
    trained on. The score at t is optimistic, because it is a maximum over thresholds.
    """
    valid = get_args(ThresholdMetric)
    if metric not in valid:
        raise ValueError(
            f"best_threshold cannot use metric {metric!r}{did_you_mean(str(metric), valid)}"
        )
    truth, predicted = inputs.check_probabilities(y_true, probability)
    if predicted.ndim == 2 and predicted.shape[1] != 2:
        raise ValueError(
            f"best_threshold is for two classes, got probabilities of shape {predicted.shape}"
        )
    score = predicted if predicted.ndim == 1 else predicted[:, 1]
    weights = inputs.check_weights(len(truth), sample_weight)
    inputs.check_unit_interval(score, "probability")
    thresholds, tp, fp = _thresholds(truth == 1, score, weights)
    quality = _SCORES[metric](tp, fp, tp[0], fp[0])
    best = thresholds[quality >= quality.max() - _TIE]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _thresholds(
    truth: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds from all positive to none, and the weights of true and false positives.

    Thresholds keep the dtype of the scores: a float64 midpoint may round onto a float32 score.
    """
    distinct, group = np.unique(score, return_inverse=True)
    one = np.ones(1, distinct.dtype)
    lower = np.concatenate([0 * one, distinct])
    upper = np.concatenate([distinct, np.maximum(one, np.nextafter(distinct[-1:], 2 * one))])
    thresholds = (lower + upper) / 2
    thresholds = np.where(thresholds > lower, thresholds, upper)  # adjacent floats have no midpoint
    thresholds = np.where((lower < 0.5) & (upper >= 0.5), 0.5, thresholds)
    tp, fp = (
        np.append(np.cumsum(np.bincount(group, weights * side)[::-1])[::-1], 0.0)
        for side in (truth, ~truth)
    )
    return thresholds, tp, fp


def _f1(tp: np.ndarray, fp: np.ndarray, positives: float, _: float) -> np.ndarray:
    return _ratio(2 * tp, tp + fp + positives)


def _accuracy(tp: np.ndarray, fp: np.ndarray, positives: float, negatives: float) -> np.ndarray:
    return (tp + negatives - fp) / (positives + negatives)


def _balanced_accuracy(
    tp: np.ndarray, fp: np.ndarray, positives: float, negatives: float
) -> np.ndarray:
    correct = ((tp, positives), (negatives - fp, negatives))
    return np.mean([each / total for each, total in correct if total > 0], axis=0)


def _mcc(tp: np.ndarray, fp: np.ndarray, positives: float, negatives: float) -> np.ndarray:
    predicted = tp + fp
    product = positives * negatives * predicted * (positives + negatives - predicted)
    return _ratio(tp * negatives - fp * positives, np.sqrt(np.maximum(product, 0.0)))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    zeros = np.zeros_like(denominator)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)


# Each takes the weights of true and false positives at every threshold, of positives and negatives.
_SCORES = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "mcc": _mcc,
}
