"""Metrics against their definitions, as plain loops over rows, pairs, classes and bins."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest

from mlx_heads import METRICS, get_metric, naive_scale


def mean(terms, w):
    return math.fsum(t * v for t, v in zip(terms, w, strict=True)) / math.fsum(w)


def ratio(a, b):
    return a / b if b else 0.0


def sides(y, p):
    """(truth, prediction) as booleans for each class that occurs, or for each label."""
    if y.ndim == 2:
        return list(zip(y.T == 1, p.T == 1, strict=True))
    return [(y == each, p == each) for each in sorted({*y.tolist(), *p.tolist()})]


def counts(side, w):
    t, p = side
    return tuple(math.fsum(w[each]) for each in (t & p, ~t & p, t & ~p))


SCORES = {
    "f1": lambda tp, fp, fn: ratio(2 * tp, 2 * tp + fp + fn),
    "precision": lambda tp, fp, fn: ratio(tp, tp + fp),
    "recall": lambda tp, fp, fn: ratio(tp, tp + fn),
    "jaccard": lambda tp, fp, fn: ratio(tp, tp + fp + fn),
}


def averaged(score, average):
    function = SCORES[score]

    def by_definition(y, p, w):
        if average == "samples":
            rows = [sides(y[[i]], p[[i]]) for i in range(len(y))]
            one = np.ones(1)
            each = [np.sum([counts(side, one) for side in row], axis=0) for row in rows]
            return mean([function(*row) for row in each], w)
        if average == "binary":
            return function(*counts((y == 1, p == 1), w))
        each = [counts(side, w) for side in sides(y, p)]
        if average == "micro":
            return function(*np.sum(each, axis=0))
        scores = [function(*row) for row in each]
        if average == "macro":
            return sum(scores) / len(scores)
        support = [tp + fn for tp, _, fn in each]
        return mean(scores, support) if any(support) else 0.0

    return by_definition


def balanced_accuracy(y, p, w):
    return np.mean([math.fsum(w[(y == c) & (p == c)]) / math.fsum(w[y == c]) for c in set(y)])


def mcc(y, p, w):
    """Correlation of one-hot truth and prediction over rows and classes."""
    classes = sorted({*y.tolist(), *p.tolist()})
    Y, P = (np.equal.outer(each, classes) * 1.0 for each in (y, p))
    Y, P = (each - np.average(each, axis=0, weights=w) for each in (Y, P))
    products = [np.average((a * b).sum(1), weights=w) for a, b in ((Y, P), (Y, Y), (P, P))]
    return ratio(products[0], math.sqrt(products[1] * products[2]))


def kappa(distance):
    def by_definition(y, p, w):
        observed = mean([distance(abs(a - b)) for a, b in zip(y, p, strict=True)], w)
        rows = range(len(y))
        chance = mean([mean([distance(abs(y[i] - p[j])) for j in rows], w) for i in rows], w)
        return 1 - observed / chance if chance else math.nan

    return by_definition


def columns_of(y, p):
    """(truth of 0 and 1, score) for each label or class; for class 1 only of two classes."""
    if y.ndim == 2:
        return list(zip(y.T, p.T, strict=True))
    if p.ndim == 1:
        return [(y, p)]
    return [(y == k, p[:, k]) for k in range(p.shape[1])]


def pairwise_auc(y, p, w):
    won = total = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            won += w[i] * w[j] * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
            total += w[i] * w[j]
    return won / total if total else math.nan


def roc_auc(y, p, w):
    areas = [pairwise_auc(*column, w) for column in columns_of(y, p)]
    if y.ndim == 2:
        areas = [each for each in areas if not math.isnan(each)]
    return sum(areas) / len(areas) if areas else math.nan


def average_precision(y, p, w):
    def of_column(y, p):
        if not y.any():
            return 0.0
        area = recall = 0.0
        for t in sorted(set(p.tolist()), reverse=True):
            tp, fp, fn = counts((y == 1, p >= t), w)
            area += (tp / (tp + fn) - recall) * tp / (tp + fp)
            recall = tp / (tp + fn)
        return area

    areas = [of_column(*column) for column in columns_of(y, p)]
    return sum(areas) / len(areas)


def full(y, p):
    """Rows of probabilities per label: (N, M or 1, K), and the truth (N, M or 1)."""
    if y.ndim == 2:
        return y, np.stack([1 - p, p], axis=2)
    return y[:, None], (p if p.ndim == 2 else np.stack([1 - p, p], axis=1))[:, None]


def log_loss(y, p, w):
    y, p = full(y, p)
    epsilon = 2.0**-52
    rows = [
        np.mean(
            [-math.log(min(max(q[k], epsilon), 1 - epsilon)) for k, q in zip(*row, strict=True)]
        )
        for row in zip(y, p, strict=True)
    ]
    return mean(rows, w)


def brier(y, p, w):
    y, p = full(y, p)
    squares = (p - np.eye(p.shape[2])[y]) ** 2
    return mean(squares.sum(2).mean(1) / (2 if p.shape[2] == 2 else 1), w)


def ece(y, p, w):
    y, p = full(y, p)
    errors = []
    for m in range(y.shape[1]):
        confidence, right = p[:, m].max(1), p[:, m].argmax(1) == y[:, m]
        error = 0.0
        for low, high in pairwise(np.linspace(0, 1, 16)):
            rows = (confidence > low) & (confidence <= high)
            error += abs(math.fsum(w[rows] * right[rows]) - math.fsum(w[rows] * confidence[rows]))
        errors.append(error / math.fsum(w))
    return sum(errors) / len(errors)


def ranks(y, p):
    p = full(y, p)[1][:, 0]
    order = [sorted(range(len(row)), key=lambda k, row=row: (-row[k], k)) for row in p]
    return [1 + row.index(k) for row, k in zip(order, y, strict=True)]


def tau_b(y, p, w):
    """Each pair of rows in turn, with the product of its weights (Kendall 1945)."""
    score = x_pairs = y_pairs = 0.0
    for i, j in combinations(range(len(y)), 2):
        a, b = np.sign(y[i] - y[j]), np.sign(p[i] - p[j])
        score += w[i] * w[j] * a * b
        x_pairs += w[i] * w[j] * abs(a)
        y_pairs += w[i] * w[j] * abs(b)
    return score / math.sqrt(x_pairs * y_pairs) if x_pairs and y_pairs else math.nan


def correlation(y, p, w):
    a, b = y - mean(y, w), p - mean(p, w)
    if not a.any() or not b.any():
        return math.nan
    return mean(a * b, w) / math.sqrt(mean(a * a, w) * mean(b * b, w))


def rank_of(x, w):
    return np.array([math.fsum(w[x < each]) + math.fsum(w[x == each]) / 2 for each in x])


def errors(term):
    return lambda y, p, w: mean([term(a, b) for a, b in zip(y, p, strict=True)], w)


def median(y, p, w):
    """Mean of the lower and the upper weighted median."""
    e = np.abs(y - p)
    total = math.fsum(w)
    lower = min(t for t in e if math.fsum(w[e <= t]) >= total / 2 - 1e-12)
    upper = max(t for t in e if math.fsum(w[e >= t]) >= total / 2 - 1e-12)
    return (lower + upper) / 2


def r2(y, p, w):
    if len(y) < 2:
        return math.nan
    error, spread = mean((y - p) ** 2, w), mean((y - mean(y, w)) ** 2, w)
    return 1 - error / spread if np.ptp(y) else float(error == 0)


def winkler(y, p, w):
    def term(t, low, high):
        return high - low + 20 * (max(low - t, 0) + max(t - high, 0))  # 2 / (1 - 0.9)

    return mean([term(t, *each) for t, each in zip(y, p, strict=True)], w)


squared, absolute = (lambda a, b: (a - b) ** 2), (lambda a, b: abs(a - b))
DEFINITIONS = {
    "accuracy": errors(lambda a, b: a == b),
    "balanced_accuracy": balanced_accuracy,
    **{score: averaged(score, "binary") for score in ("f1", "precision", "recall")},
    **{
        f"{score}_{average}": averaged(score, average)
        for score in SCORES
        for average in ("macro", "micro", "weighted", "samples")
        if f"{score}_{average}" in METRICS
    },
    "exact_match": errors(lambda a, b: (a == b).all()),
    "hamming_loss": errors(lambda a, b: (a != b).mean()),
    "mcc": mcc,
    "cohen_kappa": kappa(lambda d: float(d > 0)),
    "linear_kappa": kappa(lambda d: d),
    "quadratic_kappa": kappa(lambda d: d**2),
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "log_loss": log_loss,
    "brier": brier,
    "ece": ece,
    "top3_accuracy": lambda y, p, w: mean([r <= 3 for r in ranks(y, p)], w),
    "map_at_3": lambda y, p, w: mean([1 / r if r <= 3 else 0 for r in ranks(y, p)], w),
    "mse": errors(squared),
    "rmse": lambda y, p, w: math.sqrt(errors(squared)(y, p, w)),
    "mcrmse": lambda y, p, w: math.sqrt(errors(squared)(y, p, w)),
    "mae": errors(absolute),
    "median_ae": median,
    "r2": r2,
    "rmsle": lambda y, p, w: math.sqrt(errors(squared)(np.log(1 + y), np.log(1 + p), w)),
    "rmse_log": lambda y, p, w: math.sqrt(errors(squared)(np.log(y), np.log(p), w)),
    "mape": errors(lambda a, b: abs(a - b) / max(abs(a), 2.0**-52)),
    "smape": errors(lambda a, b: ratio(2 * abs(a - b), abs(a) + abs(b))),
    "wape": lambda y, p, w: mean(abs(y - p), w) / mean(abs(y), w) if y.any() else math.nan,
    "mase": errors(lambda a, b: abs(a - b) / 2.5),
    "pinball": errors(lambda a, b: 0.3 * (a - b) if a > b else 0.7 * (b - a)),
    "spearman": lambda y, p, w: correlation(rank_of(y, w), rank_of(p, w), w),
    "pearson": correlation,
    "kendall": tau_b,
    "coverage": errors(lambda a, b: b[0] <= a <= b[1]),
    "interval_score": winkler,
    "interval_width": errors(lambda a, b: b[1] - b[0]),
}
OPTIONS = {"mase": {"scale": 2.5}, "pinball": {"level": 0.3}}


def label_cases(metric, random):
    if "multilabel" in metric.tasks:
        y = random.integers(0, 2, (25, 3))
        p = np.where(random.uniform(size=y.shape) < 0.6, y, 1 - y)
        yield from (("labels", y, p), ("one label", y[:, :1], p[:, :1]), ("no label", 0 * y, p))
        yield from (("one row of labels", y[:1], p[:1]), ("none predicted", y, 0 * p))
    if metric.tasks == ("multilabel",):
        return
    classes = 2 if metric.tasks == ("binary",) else 5
    y = random.integers(0, classes, 30)
    p = np.where(random.uniform(size=30) < 0.5, y, random.integers(0, classes, 30))
    yield from (("classes", y, p), ("two classes", y % 2, p % 2), ("perfect", y, y))
    yield from (("one class true", 0 * y + 1, p % 2), ("one class predicted", y, 0 * p))
    yield from (("all of one class", 0 * y, 0 * y), ("one row", y[:1], p[:1]))
    yield ("one wrong row", np.array([1]), np.array([0]))
    if classes > 2:
        yield from (("a class never occurs", y + (y > 2), p + (p > 2)), ("many", y * 7 + 3, p * 7))


def probability_cases(metric, random):
    if "multilabel" in metric.tasks:
        y, p = random.integers(0, 2, (25, 3)), random.uniform(size=(25, 3))
        yield from (("labels", y, p), ("labels, ties", y, p.round(1)))
        yield from (("one label", y[:, :1], p[:, :1]), ("empty labels", y * [1, 0, 1], p))
        yield ("no label", 0 * y, p)
    if metric.tasks == ("multilabel",):
        return
    y = random.integers(0, 2, 30)
    p = np.clip(random.normal(0.3 + 0.4 * y, 0.25), 0, 1)  # some exactly 0 and 1
    yield from (("binary", y, p), ("ties", y, p.round(1)), ("all tied", y, 0 * p + 0.5))
    yield from (("only ones", 0 * y + 1, p), ("only zeros", 0 * y, p), ("one row", y[:1], p[:1]))
    if metric.name == "average_precision":
        return
    y, p = random.integers(0, 5, 30), random.dirichlet(np.ones(5), 30)
    ties = random.integers(1, 4, (30, 5)) * 1.0
    yield from (("classes", y, p), ("classes, ties", y, ties / ties.sum(1, keepdims=True)))
    yield from (("a class without rows", y % 4, p), ("one class", 0 * y, p))


def value_cases(metric, random):
    positive = metric.name in ("rmsle", "rmse_log")
    y = random.lognormal(1, 1, 31) if positive else random.normal(size=31)
    p = y * random.uniform(0.5, 2, 31)
    yield from (
        ("random", y, p),
        ("even", y[1:], p[1:]),
        ("exact", y, y),
        ("one row", y[:1], p[:1]),
    )
    yield from (("ties", y.round() + 7, p.round() + 7), ("constant truth", 0 * y + 3, abs(p)))
    yield ("constant prediction", y, 0 * y + 3)
    if not positive:
        yield ("zeros", np.array([0.0, 0.0, 1.0, 0.0]), np.array([0.0, 2.0, -1.0, 0.0]))
        yield ("truth of zeros", 0 * y, p)


def interval_cases(metric, random):
    y, middle, width = (random.normal(size=31) for _ in range(3))
    bounds = np.stack([middle - abs(width), middle + abs(width)], axis=1)
    yield from (("random", y, bounds), ("on a bound", bounds[:, 1], bounds))
    yield ("no width", y, np.stack([y, y], axis=1))


CASES = {
    "label": label_cases,
    "probability": probability_cases,
    "value": value_cases,
    "interval": interval_cases,
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_its_definition(name):
    metric = get_metric(name)
    random, options = np.random.default_rng(0), OPTIONS.get(name, {})
    wrong = []
    for case, y, p in CASES[metric.needs](metric, random):
        rows = len(y)
        alone = 1.0 * (np.arange(rows) == rows - 1)
        for weights in (None, random.uniform(0.1, 2, rows), random.integers(0, 3, rows), alone):
            w = np.ones(rows) if weights is None else weights * 1.0
            if not w.any():
                continue
            score = metric(y, p, weights, **options)
            expected = DEFINITIONS[name](y[w > 0], p[w > 0], w[w > 0])
            # 1e-12: a few roundings of float64. A nearly constant column would cancel.
            if not np.isclose(score, expected, rtol=1e-12, atol=1e-12, equal_nan=True):
                wrong.append((case, weights, score, float(expected)))
    assert wrong == []


@pytest.mark.parametrize("name", [each for each in METRICS if METRICS[each].needs == "value"])
def test_several_targets_are_the_mean_over_columns(name):
    random, options = np.random.default_rng(1), OPTIONS.get(name, {})
    y = random.lognormal(size=(20, 3))
    p, weights = y * random.uniform(0.5, 2, (20, 3)), random.uniform(0.1, 2, 20)
    columns = [DEFINITIONS[name](y[:, t], p[:, t], weights) for t in range(3)]
    score = get_metric(name)(y, p, weights, **options)
    assert score == pytest.approx(np.mean(columns), rel=1e-12)
    by_column = get_metric(name).by_column(y, p, weights, **options)
    np.testing.assert_allclose(by_column, columns, rtol=1e-12)


def test_intervals_of_several_targets_are_the_mean_over_columns():
    y = np.array([[1.0, 5.0], [2.0, 6.0]])
    low, high = y - np.array([0.5, -0.5]), y + np.array([0.5, 2.0])  # column 1 is missed by 0.5
    bounds = np.stack([low, high], axis=2)
    assert get_metric("coverage")(y, bounds) == 0.5
    assert get_metric("interval_width")(y, bounds) == (1.0 + 1.5) / 2
    score = get_metric("interval_score")(y, bounds, level=0.8)
    assert score == pytest.approx((1.0 + 1.5 + 2 / 0.2 * 0.5) / 2)


def test_mase_is_one_for_the_seasonal_naive_forecast_of_a_steady_series():
    series = np.array([1.0, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14])  # each season of 4 is 5 higher
    assert naive_scale(series, season=4) == 5.0
    assert naive_scale([series, 2 * series], season=4).tolist() == [5.0, 10.0]
    naive, truth = series[-4:], series[-4:] + 5
    assert get_metric("mase")(truth, naive, scale=naive_scale(series, 4)) == 1.0
    both = get_metric("mase")([truth, 2 * truth], [naive, 2 * naive], scale=[5.0, 10.0])
    assert both == 1.0  # each row of (S, H) is a series with its own scale
    with pytest.raises(ValueError, match=r"^mase needs scale=naive_scale\(y_train, season\) of "):
        get_metric("mase")(truth, naive)
    with pytest.raises(
        ValueError, match=r"^scale must be a positive number or \(4,\) of them, got"
    ):
        get_metric("mase")(truth, naive, scale=0.0)
    with pytest.raises(ValueError, match=r"L above the season of 4, got shape \(3,\)$"):
        naive_scale([1.0, 2.0, 3.0], season=4)


def test_labels_without_both_classes_are_left_out_of_the_mean_area_and_can_be_seen():
    truth = np.array([[0, 0, 1], [1, 0, 0], [1, 0, 1]])
    score = np.array([[0.2, 0.5, 0.9], [0.4, 0.5, 0.5], [0.1, 0.5, 0.5]])
    areas = get_metric("roc_auc").by_column(truth, score)
    assert areas[[0, 2]].tolist() == [0.5, 0.75]
    assert np.isnan(areas[1])
    assert get_metric("roc_auc")(truth, score) == 0.625
