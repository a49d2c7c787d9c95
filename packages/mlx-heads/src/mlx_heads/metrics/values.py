"""Metrics of predicted numbers: (N,) truth, (N,) prediction, (N,) weights, all float64."""

import numpy as np


def mse(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean squared error."""
    return float(np.average((truth - predicted) ** 2, weights=weights))


def rmse(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Root mean squared error."""
    return float(np.sqrt(mse(truth, predicted, weights)))


def mae(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.average(np.abs(truth - predicted), weights=weights))


def median_ae(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Weighted median of absolute errors; of an even split the mean of the middle two."""
    errors = np.abs(truth - predicted)
    order = np.argsort(errors, kind="stable")
    errors, share = errors[order], np.cumsum(weights[order]) / weights.sum()
    tolerance = len(share) * np.finfo(np.float64).eps
    lower = np.searchsorted(share, 0.5 - tolerance)
    upper = min(np.searchsorted(share, 0.5 + tolerance), len(errors) - 1)
    return float((errors[lower] + errors[upper]) / 2)


def r2(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """One minus the squared error over that of the mean.

    For a constant truth 1 if exact, else 0. NaN for one row.
    """
    if len(truth) < 2:
        return float("nan")
    error = mse(truth, predicted, weights)
    if np.ptp(truth[weights > 0]) == 0:
        return 0.0 if error else 1.0
    return float(1 - error / mse(truth, np.average(truth, weights=weights), weights))


def rmsle(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """RMSE of log(1 + y); all must be above -1."""
    _check_above(-1, "rmsle", truth, predicted)
    return rmse(np.log1p(truth), np.log1p(predicted), weights)


def rmse_log(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """RMSE of log(y), as in Kaggle's house prices competition; all must be positive."""
    _check_above(0, "rmse_log", truth, predicted)
    return rmse(np.log(truth), np.log(predicted), weights)


def mape(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean of |error| / |y|, a fraction; |y| at least the float64 epsilon, as in scikit-learn."""
    size = np.maximum(np.abs(truth), np.finfo(np.float64).eps)
    return float(np.average(np.abs(truth - predicted) / size, weights=weights))


def smape(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean of 2 |error| / (|y| + |prediction|), in 0 to 2; 0 for a row where both are zero."""
    size = np.abs(truth) + np.abs(predicted)
    ratio = np.divide(2 * np.abs(truth - predicted), size, out=np.zeros_like(truth), where=size > 0)
    return float(np.average(ratio, weights=weights))


def pearson(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Weighted linear correlation; NaN if either side is constant."""
    truth, predicted, weights = truth[weights > 0], predicted[weights > 0], weights[weights > 0]
    if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    x = truth - np.average(truth, weights=weights)
    y = predicted - np.average(predicted, weights=weights)
    covariance = np.average(x * y, weights=weights)
    variances = np.average(x * x, weights=weights) * np.average(y * y, weights=weights)
    return float(np.clip(covariance / np.sqrt(variances), -1.0, 1.0))


def spearman(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Correlation of ranks, mean rank for ties; an integer weight equals repeated rows."""
    return pearson(_ranks(truth, weights), _ranks(predicted, weights), weights)


def _ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    _, group = np.unique(x, return_inverse=True)
    total = np.bincount(group, weights=weights)
    return (np.cumsum(total) - total / 2)[group]


def _check_above(bound: float, name: str, truth: np.ndarray, predicted: np.ndarray) -> None:
    for side, array in (("y_true", truth), ("y_pred", predicted)):
        wrong = np.flatnonzero(array <= bound)
        if wrong.size:
            value = array[wrong[0]]
            raise ValueError(f"{name} needs {side} above {bound}, row {wrong[0]} is {value:g}")
