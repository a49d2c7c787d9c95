"""The probability above which a row counts as positive, chosen on held-out predictions."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean
from mlx_heads.metrics import inputs

ThresholdMetric = Literal["accuracy", "balanced_accuracy", "f1", "mcc"]

# Scores of different cuts that are equal on paper differ by rounding.
_TIE = 1e-12


def best_threshold(
    y_true: ArrayLike,
    probability: ArrayLike,
    metric: ThresholdMetric = "f1",
    sample_weight: ArrayLike | None = None,
) -> float:
    """Return the t for which `probability >= t` scores best, tried at every cut, O(N log N).

    `y_true` (N,) is 0 or 1, `probability` (N,) of class 1 or (N, 2). t is halfway between two
    neighbouring probabilities, or 0.5 where that makes the same cut; of equally good cuts the one
    nearest 0.5. It may exceed 1 when never saying 1 is best. Choose it on rows the model was not
    trained on, and expect less on new ones: a maximum over cuts is optimistic.
    """
    valid = get_args(ThresholdMetric)
    if metric not in valid:
        raise ValueError(
            f"best_threshold cannot use metric {metric!r}{did_you_mean(str(metric), valid)}"
        )
    truth, predicted = inputs.probabilities(y_true, probability)
    if predicted.ndim == 2 and predicted.shape[1] != 2:
        raise ValueError(
            f"best_threshold is for two classes, got probabilities of shape {predicted.shape}"
        )
    score = predicted if predicted.ndim == 1 else predicted[:, 1]
    weights = inputs.weights_of(len(truth), sample_weight)
    inputs.check_unit_interval(score, "probability")
    cuts, hits, false_alarms = _cuts(truth == 1, score, weights)
    quality = _SCORES[metric](hits, false_alarms, hits[0], false_alarms[0])
    best = cuts[quality >= quality.max() - _TIE]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _cuts(
    truth: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds from all positive to none, and the weights of hits and false alarms.

    Thresholds stay in the dtype of the scores: halfway in float64 may round onto a float32 score.
    """
    distinct, group = np.unique(score, return_inverse=True)
    one = np.ones(1, distinct.dtype)
    lower = np.concatenate([0 * one, distinct])
    upper = np.concatenate([distinct, np.maximum(one, np.nextafter(distinct[-1:], 2 * one))])
    cuts = (lower + upper) / 2
    cuts = np.where(cuts > lower, cuts, upper)  # neighbouring floats have no middle
    cuts = np.where((lower < 0.5) & (upper >= 0.5), 0.5, cuts)
    hits, false_alarms = (
        np.append(np.cumsum(np.bincount(group, weights * side)[::-1])[::-1], 0.0)
        for side in (truth, ~truth)
    )
    return cuts, hits, false_alarms


def _f1(hits: np.ndarray, false_alarms: np.ndarray, positives: float, _: float) -> np.ndarray:
    return _ratio(2 * hits, hits + false_alarms + positives)


def _accuracy(
    hits: np.ndarray, false_alarms: np.ndarray, positives: float, negatives: float
) -> np.ndarray:
    return (hits + negatives - false_alarms) / (positives + negatives)


def _balanced_accuracy(
    hits: np.ndarray, false_alarms: np.ndarray, positives: float, negatives: float
) -> np.ndarray:
    recalls = [
        right / total
        for right, total in ((hits, positives), (negatives - false_alarms, negatives))
        if total > 0
    ]
    return np.mean(recalls, axis=0)


def _mcc(
    hits: np.ndarray, false_alarms: np.ndarray, positives: float, negatives: float
) -> np.ndarray:
    said = hits + false_alarms
    product = positives * negatives * said * (positives + negatives - said)
    return _ratio(hits * negatives - false_alarms * positives, np.sqrt(np.maximum(product, 0.0)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)


# Each takes the weights of hits and false alarms at every cut, and of all positives and negatives.
_SCORES = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "mcc": _mcc,
}
