"""Decision thresholds of a binary or multilabel classifier, chosen on held-out predictions."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean
from mlx_heads.metrics import inputs

ThresholdMetric = Literal["accuracy", "balanced_accuracy", "f1", "mcc"]
MultilabelThresholdMetric = Literal["accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "mcc"]

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
    sweep = _sweep(truth == 1, score, weights)
    return sweep.nearest_half(_SCORES[metric](sweep.tp, sweep.fp, sweep.tp[0], sweep.fp[0]))


def best_thresholds(
    y_true: ArrayLike,
    probability: ArrayLike,
    metric: MultilabelThresholdMetric = "f1_macro",
    sample_weight: ArrayLike | None = None,
) -> np.ndarray:
    """Return (M,) thresholds, for which the labels with `probability >= t` have the best score.

    `y_true` and `probability` are (N, M). "f1_macro", "accuracy" (of all labels, 1 - hamming loss),
    "balanced_accuracy" and "mcc" are means over labels, so each label has its own `best_threshold`.
    "f1_micro" is the best over all M thresholds together, by Dinkelbach's method (1967): for an
    F1 of L, each label has the threshold with the largest 2 TP - L (predicted positives).
    """
    valid = get_args(MultilabelThresholdMetric)
    if metric not in valid:
        raise ValueError(
            f"best_thresholds cannot use metric {metric!r}{did_you_mean(str(metric), valid)}"
        )
    truth = inputs.check_label_matrix(y_true, "y_true")
    truth, score = inputs.check_probabilities(truth, probability)
    weights = inputs.check_weights(len(truth), sample_weight)
    inputs.check_unit_interval(score, "probability")
    sweeps = [_sweep(y == 1, p, weights) for y, p in zip(truth.T, score.T, strict=True)]
    if metric == "f1_micro":
        qualities = _micro_f1_qualities(sweeps, float(weights @ truth.sum(1)))
    else:
        rate = _SCORES["f1" if metric == "f1_macro" else metric]
        qualities = [rate(each.tp, each.fp, each.tp[0], each.fp[0]) for each in sweeps]
    best = [each.nearest_half(quality) for each, quality in zip(sweeps, qualities, strict=True)]
    return np.array(best, score.dtype)  # in its dtype a threshold separates what it separated


@dataclass(frozen=True)
class _Sweep:
    """Thresholds from all positive to none, and the weights of true and false positives."""

    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray

    def nearest_half(self, quality: np.ndarray) -> float:
        """Return the best threshold, of equally good ones that nearest to 0.5."""
        best = self.thresholds[quality >= quality.max() - _TIE]
        return float(best[np.argmin(np.abs(best - 0.5))])


def _micro_f1_qualities(sweeps: list[_Sweep], positives: float) -> list[np.ndarray]:
    """Return what each label maximizes at the best micro F1."""
    f1, scale = 0.0, sum(each.tp[0] + each.fp[0] for each in sweeps)
    while True:
        qualities = [(2 * each.tp - f1 * (each.tp + each.fp)) / scale for each in sweeps]
        chosen = [int(np.argmax(quality)) for quality in qualities]
        tp = sum(each.tp[at] for each, at in zip(sweeps, chosen, strict=True))
        fp = sum(each.fp[at] for each, at in zip(sweeps, chosen, strict=True))
        better = 2 * tp / (tp + fp + positives) if tp else 0.0
        if better <= f1 + _TIE:  # F1 rises in each round, and takes finitely many values
            return qualities
        f1 = better


def _sweep(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> _Sweep:
    """Return every threshold that matters, in O(N log N).

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
    return _Sweep(thresholds, tp, fp)


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
