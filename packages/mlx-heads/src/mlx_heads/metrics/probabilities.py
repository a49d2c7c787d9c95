"""Metrics of probabilities: truth, prediction and (N,) weights to a float.

Of classes (N,) numbers with (N, K), or with (N,) of class 1; of labels (N, M) zeros and ones with
(N, M). No weight is zero.
"""

import numpy as np

from mlx_heads.metrics import inputs

# Rows may sum to 1 with this error, which permits float16 rounding and detects logits.
_SUM_TOLERANCE = 1e-2
_BINS = 15


def roc_auc(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve, with ties as half. Any score works, not only probabilities.

    For K > 2 the mean over one-versus-rest; NaN if a class has no rows, or all. For labels the mean
    over those with both classes, NaN if there are none: `Metric.by_column` shows which were left
    out, as NaN.
    """
    from sklearn.metrics import roc_auc_score

    columns, scores = _one_versus_rest(truth, predicted)
    areas = [
        roc_auc_score(y, score, sample_weight=weights) if 0 < y.sum() < len(y) else np.nan
        for y, score in zip(columns.T, scores.T, strict=True)
    ]
    if truth.ndim == 2 and not np.isnan(areas).all():
        return float(np.nanmean(areas))
    return float(np.mean(areas))


def average_precision(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Sum of (R_n - R_{n-1}) P_n over descending scores, not interpolated; 0 without positives.

    For labels the mean over all of them.
    """
    from sklearn.metrics import average_precision_score

    columns, scores = _one_versus_rest(truth, predicted)
    if truth.ndim == 1 and scores.shape[1] > 1:
        raise ValueError(
            f"this metric is for two classes, got probabilities of shape {predicted.shape}"
        )
    precisions = [
        average_precision_score(y, score, sample_weight=weights) if y.any() else 0.0
        for y, score in zip(columns.T, scores.T, strict=True)
    ]
    return float(np.mean(precisions))


def log_loss(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean negative log probability of the true class; for labels the mean over them.

    Probabilities are clipped by the machine epsilon of their dtype, as in scikit-learn.
    """
    epsilon = np.finfo(predicted.dtype).eps
    clipped = np.clip(_distribution(truth, predicted), epsilon, 1 - epsilon)
    losses = -np.log(_at(clipped, truth))
    return float(np.average(_over_labels(losses), weights=weights))


def brier(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean squared error of the probability of class 1; for K > 2 the sum over all classes.

    For labels the mean over them.
    """
    distribution = _distribution(truth, predicted)
    squares = (distribution - np.eye(distribution.shape[-1])[truth]) ** 2
    errors = squares[..., 1] if squares.shape[-1] == 2 else squares.sum(axis=-1)
    return float(np.average(_over_labels(errors), weights=weights))


def ece(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Expected calibration error: mean |accuracy - confidence| over 15 bins (Guo 2017, eq. 3).

    Confidence is the probability of the most probable class, also for two classes, where it is at
    least 0.5; bins (lo, hi] of equal width. For labels the mean over the errors of each.
    """
    distribution = _distribution(truth, predicted)
    distribution = distribution.reshape(len(truth), -1, distribution.shape[-1])  # (N, M or 1, K)
    confidence = distribution.max(axis=-1)
    gap = (distribution.argmax(axis=-1) == truth.reshape(confidence.shape)) - confidence
    bins = np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], confidence)
    errors = [
        np.abs(np.bincount(column, weights * gaps)).sum() / weights.sum()
        for column, gaps in zip(bins.T, gap.T, strict=True)
    ]
    return float(np.mean(errors))


def top_accuracy(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, *, k: int = 3
) -> float:
    """Share of rows whose true class is among the k most probable."""
    return float(np.average(_rank(truth, predicted) <= k, weights=weights))


def mean_average_precision(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, *, k: int = 3
) -> float:
    """Mean of 1 / rank of the true class, 0 past rank k: MAP@k with one true class per row."""
    rank = _rank(truth, predicted)
    return float(np.average(np.where(rank <= k, 1 / rank, 0.0), weights=weights))


def _rank(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return (N,) ranks from 1; of equal probabilities the lower class is first, as in argmax."""
    predicted = _distribution(truth, predicted)
    own = _at(predicted, truth)[:, None]
    earlier = np.arange(predicted.shape[1]) < truth[:, None]
    return 1 + ((predicted > own) | ((predicted == own) & earlier)).sum(axis=1)


def _at(distribution: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the probability of the truth, in the shape of the truth."""
    return np.take_along_axis(distribution, truth[..., None], axis=-1)[..., 0]


def _over_labels(losses: np.ndarray) -> np.ndarray:
    return losses.mean(axis=1) if losses.ndim == 2 else losses


def _one_versus_rest(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, C) zeros and ones and their scores; C is 1 for two classes."""
    if truth.ndim == 2:
        return truth, predicted
    if predicted.ndim == 1 or predicted.shape[1] == 2:
        return truth[:, None], predicted.reshape(len(truth), -1)[:, -1:]
    return np.eye(predicted.shape[1], dtype=np.int64)[truth], predicted


def _distribution(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return valid float64 probabilities of the classes, (N, K), or (N, M, 2) for labels."""
    inputs.check_unit_interval(predicted, "y_pred")
    predicted = predicted.astype(np.float64)
    if predicted.ndim == truth.ndim:
        return np.stack([1 - predicted, predicted], axis=-1)
    wrong = np.flatnonzero(np.abs(predicted.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.size:
        total = predicted[wrong[0]].sum()
        raise ValueError(f"rows of y_pred must sum to one, row {wrong[0]} sums to {total:g}")
    return predicted
