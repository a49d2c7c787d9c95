"""Metrics of probabilities: (N,) class numbers, (N, K) or (N,) of class 1, (N,) weights."""

import numpy as np

from mlx_heads.metrics import inputs

# Rows may sum to 1 with this error, which permits float16 rounding and detects logits.
_SUM_TOLERANCE = 1e-2


def roc_auc(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve, with ties as half; for K > 2 the mean over one-versus-rest.

    NaN if a class has no rows, or all. For two classes any score works, not only probabilities.
    """
    if predicted.ndim == 1 or predicted.shape[1] == 2:
        return _binary_auc(truth == 1, _positive_score(predicted), weights)
    columns = range(predicted.shape[1])
    areas = [_binary_auc(truth == column, predicted[:, column], weights) for column in columns]
    return float(np.mean(areas))


def average_precision(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Sum of (R_n - R_{n-1}) P_n over descending scores, not interpolated; 0 without positives."""
    tp, fp = _counts_by_threshold(truth == 1, _positive_score(predicted), weights)
    if not tp[-1]:
        return 0.0
    predicted_positive = tp + fp
    precision = np.divide(
        tp, predicted_positive, out=np.zeros_like(tp), where=predicted_positive > 0
    )
    return float(np.sum(np.diff(tp / tp[-1], prepend=0.0) * precision))


def log_loss(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean negative log probability of the true class; of labels the mean over them.

    Probabilities are clipped by the machine epsilon of their dtype, as in scikit-learn.
    """
    epsilon = np.finfo(predicted.dtype).eps
    if truth.ndim == 2:
        inputs.check_unit_interval(predicted, "y_pred")
        p = np.clip(predicted.astype(np.float64), epsilon, 1 - epsilon)
        losses = -np.log(np.where(truth == 1, p, 1 - p)).mean(axis=1)
    else:
        p = np.clip(_distribution(predicted), epsilon, 1 - epsilon)
        losses = -np.log(p[np.arange(len(truth)), truth])
    return float(np.average(losses, weights=weights))


def brier(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean squared error of the probability of class 1; for K > 2 the sum over all classes."""
    distribution = _distribution(predicted)
    squares = (distribution - np.eye(distribution.shape[1])[truth]) ** 2
    errors = squares[:, 1] if squares.shape[1] == 2 else squares.sum(axis=1)
    return float(np.average(errors, weights=weights))


def _binary_auc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> float:
    tp, fp = _counts_by_threshold(truth, score, weights)
    if not (tp[-1] and fp[-1]):
        return float("nan")
    heights = tp + np.concatenate([[0.0], tp[:-1]])  # twice the mean height of each step
    area = np.sum(np.diff(fp, prepend=0.0) * heights) / 2
    return float(area / (tp[-1] * fp[-1]))


def _counts_by_threshold(
    truth: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights of true and false positives at each distinct score, descending."""
    order = np.argsort(-score, kind="stable")
    score = score[order]
    last_of_ties = np.append(np.flatnonzero(score[1:] != score[:-1]), len(score) - 1)
    tp = np.cumsum(np.where(truth, weights, 0.0)[order])
    fp = np.cumsum(np.where(truth, 0.0, weights)[order])
    return tp[last_of_ties], fp[last_of_ties]


def _positive_score(predicted: np.ndarray) -> np.ndarray:
    if predicted.ndim == 1:
        return predicted
    if predicted.shape[1] != 2:
        raise ValueError(
            f"this metric is for two classes, got probabilities of shape {predicted.shape}"
        )
    return predicted[:, 1]


def _distribution(predicted: np.ndarray) -> np.ndarray:
    """Return valid (N, K) float64 probabilities, with K = 2 for (N,) of class 1."""
    inputs.check_unit_interval(predicted, "y_pred")
    predicted = predicted.astype(np.float64)
    if predicted.ndim == 1:
        return np.stack([1 - predicted, predicted], axis=1)
    wrong = np.flatnonzero(np.abs(predicted.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.size:
        total = predicted[wrong[0]].sum()
        raise ValueError(f"rows of y_pred must sum to one, row {wrong[0]} sums to {total:g}")
    return predicted
