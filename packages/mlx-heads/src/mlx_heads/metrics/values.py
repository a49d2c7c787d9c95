"""Metrics of predicted numbers: (N,) truth, (N,) prediction, (N,) weights, all float64.

No weight is zero. SciPy has no weighted correlations; those here treat a whole weight as that many
equal rows.
"""

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads.metrics import inputs


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
    if np.ptp(truth) == 0:
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


def wape(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Sum of |error| over the sum of |y|, a fraction; NaN if all y are zero."""
    size = weights @ np.abs(truth)
    return float(weights @ np.abs(truth - predicted) / size) if size else float("nan")


def pinball(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, *, level: float = 0.5
) -> float:
    """Mean pinball loss of a predicted quantile; half the mean absolute error at level 0.5."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    error = truth - predicted
    return float(np.average(np.maximum(level * error, (level - 1) * error), weights=weights))


def mase(
    truth: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray,
    *,
    scale: ArrayLike | None = None,
) -> float:
    """Mean absolute error over `scale`, from `naive_scale`: a number, or (N,) of each series."""
    if scale is None:
        raise ValueError("mase needs scale=naive_scale(y_train, season) of the training series")
    scale = np.asarray(scale, np.float64)
    if scale.shape not in ((), truth.shape) or not (scale > 0).all():
        raise ValueError(
            f"scale must be a positive number or {truth.shape} of them, got shape {scale.shape} "
            f"with the least {scale.min() if scale.size else None}"
        )
    return float(np.average(np.abs(truth - predicted) / scale, weights=weights))


def naive_scale(y_train: ArrayLike, season: int = 1) -> np.ndarray:
    """Return the mean |y_t - y_{t - season}| of a series (L,), or (S,) of series (S, L).

    The in-sample error of the seasonal naive forecast, by which `mase` divides (Hyndman and Koehler
    2006). It is 0 for a series that repeats exactly, for which `mase` is undefined.
    """
    series = np.asarray(y_train, np.float64)
    if series.ndim not in (1, 2) or not 1 <= season < series.shape[-1]:
        raise ValueError(
            f"y_train must be (L,) or (S, L) with L above the season of {season}, "
            f"got shape {series.shape}"
        )
    inputs.check_finite(series, "y_train")
    return np.abs(series[..., season:] - series[..., :-season]).mean(axis=-1)


def pearson(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Weighted linear correlation; NaN if either side is constant."""
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


def kendall(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Kendall's tau-b: concordant minus discordant pairs, over those not tied; O(N log^2 N).

    NaN if either side is constant. A pair has the product of its weights.
    """
    order = np.lexsort((predicted, truth))  # pairs that are tied in truth are never discordant
    x, y = (np.unique(side[order], return_inverse=True)[1] for side in (truth, predicted))
    weights = weights[order]

    def pairs(group: np.ndarray) -> float:
        """Weight of the ordered pairs, and rows with themselves, that are equal in `group`."""
        return float((np.bincount(group, weights) ** 2).sum())

    everything = weights.sum() ** 2
    x_ties, y_ties, both = pairs(x), pairs(y), pairs(x * (int(y.max()) + 1) + y)
    if not (x.any() and y.any()):
        return float("nan")
    untied = everything - x_ties - y_ties + both
    difference = untied - 4 * _inversions(y, weights)  # each pair counts twice in `untied`
    return float(difference / np.sqrt((everything - x_ties) * (everything - y_ties)))


def _inversions(ranks: np.ndarray, weights: np.ndarray) -> float:
    """Return the sum of w_i w_j over i < j with a larger rank at i.

    From the highest bit on: among ranks that agree above a bit, those with a 1 before a 0.
    """
    total = 0.0
    for bit in reversed(range(int(ranks.max()).bit_length())):
        order = np.argsort(ranks >> (bit + 1), kind="stable")
        ranks, weights = ranks[order], weights[order]
        group, is_one = ranks >> (bit + 1), (ranks >> bit) & 1 == 1
        ones_before = np.concatenate([[0.0], np.cumsum(weights * is_one)])
        start = np.searchsorted(group, group)
        total += float((weights * (ones_before[:-1] - ones_before[start]))[~is_one].sum())
    return total


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
