"""Metrics of predicted classes: (N,) truth, (N,) prediction, (N,) weights to a float.

A ratio with a denominator of 0 is 0, as in scikit-learn.
"""

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads.metrics import inputs


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_classes: int) -> np.ndarray:
    """Return (K, K) int64 counts of class numbers 0..K-1: rows are true, columns predicted."""
    truth, predicted = inputs.check_labels(y_true, y_pred)
    for name, array in (("y_true", truth), ("y_pred", predicted)):
        whole = array.dtype.kind in "biuf" and bool((array == np.floor(array)).all())
        if not whole or (array.size and (array.min() < 0 or array.max() >= num_classes)):
            raise ValueError(f"{name} must be class numbers 0 to {num_classes - 1}")
    cells = truth.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Share of correct rows."""
    return float(np.average(truth == predicted, weights=weights))


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean recall over the classes in the truth."""
    counts = _weighted_confusion(truth, predicted, weights)
    occurs = counts.sum(axis=1) > 0
    return float(np.mean(counts.diagonal()[occurs] / counts.sum(axis=1)[occurs]))


def precision(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Share of class 1 among the rows predicted as 1."""
    tp, fp, _ = _positive_counts(truth, predicted, weights)
    return _ratio(tp, tp + fp)


def recall(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Share predicted as 1 among the rows of class 1."""
    tp, _, fn = _positive_counts(truth, predicted, weights)
    return _ratio(tp, tp + fn)


def f1(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Harmonic mean of precision and recall of class 1."""
    tp, fp, fn = _positive_counts(truth, predicted, weights)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def f1_macro(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean F1 over the classes in truth or predictions."""
    counts = _weighted_confusion(truth, predicted, weights)
    both = counts.sum(axis=0) + counts.sum(axis=1)
    return float(
        np.mean([_ratio(2 * tp, n) for tp, n in zip(counts.diagonal(), both, strict=True)])
    )


def mcc(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Matthews correlation for K classes (Gorodkin 2004); 0 when one side is constant."""
    counts = _weighted_confusion(truth, predicted, weights / weights.sum())
    true_share, predicted_share = counts.sum(axis=1), counts.sum(axis=0)
    if true_share.max() > 1 - 1e-15 or predicted_share.max() > 1 - 1e-15:
        return 0.0
    covariance = counts.trace() - true_share @ predicted_share
    variances = (1 - true_share @ true_share) * (1 - predicted_share @ predicted_share)
    return float(covariance / np.sqrt(variances))


def quadratic_kappa(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Cohen's kappa with weights (i - j)^2 on the class numbers.

    1 - sum w O / sum w E: the mean squared difference, over that expected of independent sides. NaN
    if both are the same constant. Class numbers that do not occur count as steps too, as in
    scikit-learn's `cohen_kappa_score` with all `labels`.
    """
    if truth.dtype.kind in "US" or predicted.dtype.kind in "US":
        raise TypeError("quadratic_kappa needs ordered class numbers, got strings")
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
    if np.ptp(np.concatenate([truth, predicted])[np.tile(weights > 0, 2)]) == 0:
        return float("nan")
    true_mean, mean = np.average(truth, weights=weights), np.average(predicted, weights=weights)
    independent = (
        np.average((truth - true_mean) ** 2, weights=weights)
        + np.average((predicted - mean) ** 2, weights=weights)
        + (true_mean - mean) ** 2
    )
    observed = np.average((truth - predicted) ** 2, weights=weights)
    return float(1 - observed / independent)


def _weighted_confusion(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    classes, numbers = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    cells = numbers[: len(truth)] * len(classes) + numbers[len(truth) :]
    counts = np.bincount(cells, weights=weights, minlength=len(classes) ** 2)
    return counts.reshape(len(classes), len(classes))


def _positive_counts(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float]:
    """Return the weights of true positives, false positives and false negatives of class 1."""
    others = set(np.unique(np.concatenate([truth, predicted])).tolist()) - {0, 1}
    if others:
        raise ValueError(
            f"this metric needs classes 0 and 1, got labels {sorted(others)[:5]}; "
            "encode them as 0 and 1, or use f1_macro"
        )
    actual, positive = truth == 1, predicted == 1
    return (
        float(weights[actual & positive].sum()),
        float(weights[~actual & positive].sum()),
        float(weights[actual & ~positive].sum()),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0
