"""Cut points that turn one score per row into ordered classes, the best of all on held-out rows."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean
from mlx_heads.metrics import inputs

CutPointMetric = Literal["quadratic_kappa", "linear_kappa", "cohen_kappa", "accuracy", "mae"]

# What a row of class i costs in class j, by |i - j|; a kappa is one minus a ratio of such costs.
_DISTANCES = {
    "quadratic_kappa": np.square,
    "linear_kappa": np.abs,
    "cohen_kappa": np.sign,
    "accuracy": np.sign,
    "mae": np.abs,
}


def best_cut_points(
    y_true: ArrayLike,
    score: ArrayLike,
    num_classes: int,
    metric: CutPointMetric = "quadratic_kappa",
    sample_weight: ArrayLike | None = None,
) -> np.ndarray:
    """Return (K - 1,) increasing cut points with the best metric of all, in O(N log N + N K).

    `y_true` (N,) are class numbers 0..K-1, `score` (N,) any numbers, for example the predictions of
    a regression on class numbers. A row's class is the number of cut points at most its score
    (`apply_cut_points`). A cut point is halfway between two adjacent scores; it is -inf or inf
    where it is best that no row is below or above, so some classes may never be predicted. Of
    equally good cut points any may be returned. Use rows that the model was not trained on.

    Each class takes a run of the sorted scores, so a dynamic program over (class, scores so far)
    finds the least sum of costs. With d(i, j) = (i - j)^2, quadratic kappa is
    1 - sum w d(y, p) / sum w c(p), where c(k) is the weighted mean of d(y, k) over all rows. This
    is a ratio of such sums, of which Dinkelbach's method (1967) finds the least. If all rows have
    one class, kappa is 0 or undefined, and the most accurate cut points are returned.
    """
    if metric not in (valid := get_args(CutPointMetric)):
        raise ValueError(
            f"best_cut_points cannot use metric {metric!r}{did_you_mean(str(metric), valid)}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    truth = inputs.check_class_numbers(y_true, num_classes)
    score = _check_score(score)
    if len(truth) != len(score):
        raise ValueError(
            f"y_true and score must have the same rows, got {len(truth)} and {len(score)}"
        )
    weights = inputs.check_weights(len(truth), sample_weight)
    distinct, group = np.unique(score[weights > 0], return_inverse=True)
    truth, weights = truth[weights > 0], weights[weights > 0] / weights.sum()
    counts = np.bincount(group * num_classes + truth, weights, len(distinct) * num_classes)
    counts = counts.reshape(-1, num_classes)  # (D, K), the weight of each class at each score

    classes = np.arange(num_classes)
    distance = _DISTANCES[metric](np.abs(classes[:, None] - classes)).astype(np.float64)
    costs = counts @ distance  # (D, K), of each score in each class
    ends = _cheapest_runs(costs)
    by_chance = counts.sum(0) @ distance  # (K,), c(k) above
    if metric.endswith("kappa") and np.count_nonzero(counts.sum(0)) > 1:
        chances = counts.sum(1)[:, None] * by_chance
        ratio = _total(costs, ends) / _total(chances, ends)
        while True:
            candidate = _cheapest_runs(costs - ratio * chances)
            better = _total(costs, candidate) / _total(chances, candidate)
            if better >= ratio:  # the ratio falls in each round, and takes finitely many values
                break
            ratio, ends = better, candidate
    return _between(distinct, ends)


def apply_cut_points(score: ArrayLike, cut_points: ArrayLike) -> np.ndarray:
    """Return (N,) int64 class numbers: how many of the increasing cut points a score reaches."""
    score, cut_points = _check_score(score), np.asarray(cut_points)
    if cut_points.ndim != 1 or not (cut_points[1:] >= cut_points[:-1]).all():
        raise ValueError(f"cut_points must be (K - 1,) increasing numbers, got {cut_points}")
    return np.searchsorted(cut_points, score, side="right").astype(np.int64)


def _cheapest_runs(costs: np.ndarray) -> np.ndarray:
    """Return (K + 1,) bounds: class k takes the scores from bound k to bound k + 1.

    best[d], over the first d scores with the classes up to k, is the least over j <= d of what the
    classes below k cost for j scores and class k for the rest.
    """
    D, K = costs.shape
    sums = np.concatenate([np.zeros((1, K)), np.cumsum(costs, axis=0)])  # (D + 1, K)
    best, savings = sums[:, 0], [sums[:, 0]]
    for k in range(1, K):
        savings.append(best - sums[:, k])
        best = sums[:, k] + np.minimum.accumulate(savings[k])
    ends = np.full(K + 1, D)
    ends[0] = 0
    for k in range(K - 1, 0, -1):
        ends[k] = np.argmin(savings[k][: ends[k + 1] + 1])
    return ends


def _total(costs: np.ndarray, ends: np.ndarray) -> float:
    chosen = np.repeat(np.arange(costs.shape[1]), np.diff(ends))  # (D,), the class of each score
    return float(costs[np.arange(len(costs)), chosen].sum())


def _between(distinct: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the cut points, in the dtype of the scores: a rounded one could fall on a score."""
    inner = ends[1:-1]
    infinity = np.array([np.inf], distinct.dtype)
    lower = np.concatenate([-infinity, distinct])[inner]
    upper = np.concatenate([distinct, infinity])[inner]
    middle = lower / 2 + upper / 2  # of two large numbers the sum could overflow
    # Adjacent floats have no number between them; the cut point itself is in the upper class.
    return np.where((middle > lower) | np.isinf(lower), middle, upper)


def _check_score(score: ArrayLike) -> np.ndarray:
    array = np.asarray(score)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if array.ndim != 1:
        raise ValueError(f"score must have shape (N,), got {array.shape}")
    inputs.check_finite(array, "score")
    return array
