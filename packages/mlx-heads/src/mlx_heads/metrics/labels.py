"""Metrics of predicted classes: truth, prediction and (N,) weights to a float.

Truth and prediction are both (N,), or both (N, M) zeros and ones for M labels. No weight is zero.
A ratio with a denominator of 0 is 0, as in scikit-learn.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads.metrics import inputs

Score = Literal["f1", "precision", "recall", "jaccard"]
Average = Literal["binary", "macro", "micro", "weighted", "samples"]
Distance = Literal["linear", "quadratic"]


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_classes: int) -> np.ndarray:
    """Return (K, K) int64 counts of class numbers 0..K-1: rows are true, columns predicted."""
    truth, predicted = (
        inputs.label_array(array, name) for array, name in ((y_true, "y_true"), (y_pred, "y_pred"))
    )
    inputs.check_rows(truth, predicted)
    for name, array in (("y_true", truth), ("y_pred", predicted)):
        whole = array.dtype.kind in "biuf" and bool((array == np.floor(array)).all())
        if not whole or (array.size and (array.min() < 0 or array.max() >= num_classes)):
            raise ValueError(f"{name} must be class numbers 0 to {num_classes - 1}")
    cells = truth.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Share of correct rows."""
    return float(np.average(truth == predicted, weights=weights))


def exact_match(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Share of rows where all M labels are correct."""
    return float(np.average((truth == predicted).all(axis=1), weights=weights))


def hamming_loss(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Share of wrong labels among all N * M."""
    return float(np.average((truth != predicted).mean(axis=1), weights=weights))


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean recall over the classes in the truth."""
    truth, predicted = _numbered(truth, predicted)
    rows, correct = (np.bincount(truth, each) for each in (weights, weights * (truth == predicted)))
    return float(np.mean(correct[rows > 0] / rows[rows > 0]))


def averaged(
    truth: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray,
    *,
    score: Score,
    average: Average,
) -> float:
    """Score of scikit-learn, over the classes in truth or prediction, or over the M labels.

    "binary": of class 1. "macro": the mean over classes. "weighted": that weighted by their rows.
    "micro": of the counts of all classes. "samples": the mean over rows, of M labels; a row
    without true and predicted labels counts as 0.
    """
    import sklearn.metrics

    if truth.ndim == 2:
        # scikit-learn reads one column as classes 0 and 1; a copy of it changes no average.
        copies = 2 if truth.shape[1] == 1 else 1
        truth, predicted = np.repeat(truth, copies, axis=1), np.repeat(predicted, copies, axis=1)
    elif average == "binary":
        truth, predicted = _zeros_and_ones(truth, predicted)
    else:
        truth, predicted = _numbered(truth, predicted)
    function = getattr(sklearn.metrics, f"{score}_score")
    return float(
        function(truth, predicted, average=average, sample_weight=weights, zero_division=0)
    )


def mcc(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Matthews correlation for K classes (Gorodkin 2004); 0 when one side is constant."""
    from sklearn.metrics import matthews_corrcoef

    truth, predicted = _numbered(truth, predicted)
    if np.ptp(truth) == 0 or np.ptp(predicted) == 0:  # rounded sums of weights may differ from 0
        return 0.0
    return float(matthews_corrcoef(truth, predicted, sample_weight=weights / weights.sum()))


def kappa(
    truth: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray,
    *,
    distance: Distance | None,
) -> float:
    """Cohen's kappa: 1 minus the mean distance over that expected of independent sides.

    The distance of classes i and j is 1, |i - j| ("linear") or (i - j)^2 ("quadratic"). NaN if both
    sides are the same constant. Class numbers that do not occur count as steps too, as in
    scikit-learn's `cohen_kappa_score` with all `labels`.
    """
    from sklearn.metrics import cohen_kappa_score

    labels = None
    if distance is None:
        truth, predicted = _numbered(truth, predicted)
    else:
        truth, predicted = (_whole(each, f"{distance}_kappa") for each in (truth, predicted))
        labels = np.arange(min(truth.min(), predicted.min()), max(truth.max(), predicted.max()) + 1)
    if (truth == truth[0]).all() and (predicted == truth[0]).all():
        return float("nan")
    return float(
        cohen_kappa_score(truth, predicted, labels=labels, weights=distance, sample_weight=weights)
    )


def _numbered(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks of (N,) labels of any type among those that occur."""
    _, numbers = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    return numbers[: len(truth)], numbers[len(truth) :]


def _zeros_and_ones(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    others = set(np.unique(np.concatenate([truth, predicted])).tolist()) - {0, 1}
    if others:
        raise ValueError(
            f"this metric needs classes 0 and 1, got labels {sorted(others)[:5]}; "
            "encode them as 0 and 1, or use f1_macro"
        )
    return truth.astype(np.int64), predicted.astype(np.int64)


def _whole(labels: np.ndarray, name: str) -> np.ndarray:
    if labels.dtype.kind in "US":
        raise TypeError(f"{name} needs ordered class numbers, got strings")
    wrong = np.flatnonzero(labels != np.floor(labels))
    if wrong.size:
        raise ValueError(f"{name} needs whole class numbers, got {labels[wrong[0]]}; round them")
    return labels.astype(np.int64)
