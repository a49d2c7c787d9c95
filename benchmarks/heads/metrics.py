"""The table of metrics against scikit-learn and SciPy, and definitions where they have none."""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics as sk

from mlx_heads import METRICS

Case = tuple[np.ndarray, np.ndarray]  # truth and prediction
Reference = tuple[str, Callable[..., Any]]


def metrics_table() -> list[str]:
    """Return Markdown lines: the largest difference of each metric over its cases and weights."""
    lines = [
        "| metric | cases, each without and with weights | max difference | reference |",
        "|---|---|---|---|",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the references warn where they are undefined
        for name, (reference, function) in REFERENCES.items():
            random = np.random.default_rng(0)
            used, worst = [], 0.0
            for case, truth, predicted in cases_of(name, random):
                used.append(case)
                for weights in (None, random.integers(1, 4, len(truth))):
                    expected = function(truth, predicted, sample_weight=weights)
                    score = METRICS[name](truth, predicted, weights, **OPTIONS.get(name, {}))
                    worst = max(worst, difference(score, expected))
            lines.append(f"| `{name}` | {', '.join(used)} | {worst:.1g} | {reference} |")
    return lines


def difference(score: float, expected: float) -> float:
    """Return the difference relative to the larger of 1 and the reference; none of two NaN."""
    if math.isnan(score) and math.isnan(expected):
        return 0.0
    off = abs(score - expected) / max(1.0, abs(expected))
    return math.inf if math.isnan(off) else off


def cases_of(name: str, random: np.random.Generator) -> Iterator[tuple[str, *Case]]:
    """Yield (case, truth, prediction), of the kinds the metric takes."""
    metric = METRICS[name]
    if metric.needs == "value":
        truth = random.lognormal(1, 1, 60)
        predicted = truth * random.lognormal(0, 0.5, 60)
        yield from (("random", truth, predicted), ("ties", np.ceil(truth), np.ceil(predicted)))
        yield from (("exact", truth, truth), ("constant", 0 * truth + 3, predicted))
        return
    if metric.needs == "interval":
        truth, middle, width = random.normal(size=(3, 60))
        yield "random", truth, np.stack([middle - abs(width), middle + abs(width)], axis=1)
        return
    if "multilabel" in metric.tasks and name not in NO_LABELS:
        truth, score = random.integers(0, 2, (60, 4)), random.uniform(size=(60, 4)).round(2)
        yield "labels", truth, score if metric.needs == "probability" else (score > 0.4) * 1
    if metric.tasks == ("multilabel",):
        return
    truth, score = random.integers(0, 2, 60), random.uniform(size=60)
    for case, y, p in (("binary", truth, score), ("ties", truth, score.round(1))):
        yield case, y, p if metric.needs == "probability" else (p > 0.4) * 1
    if name != "top3_accuracy":
        yield "one class", 0 * truth, score if metric.needs == "probability" else (score > 0.4) * 1
    if "multiclass" in metric.tasks:
        truth, scores = random.integers(0, 5, 60), random.dirichlet(np.ones(5), 60)
        yield "multiclass", truth, scores if metric.needs == "probability" else scores.argmax(1)


def averaged(function: Callable[..., Any], average: str) -> Reference:
    return (
        f"`{function.__name__}`",
        partial(function, average=average, zero_division=0),
    )


def of_classes(function: Callable[..., Any], **options: Any) -> Reference:
    """A metric of scikit-learn that is told which classes there are."""

    def reference(truth: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
        classes = range(2 if predicted.ndim == 1 else predicted.shape[1])
        if truth.ndim == 2:
            columns = zip(truth.T, predicted.T, strict=True)
            return float(np.mean([reference(y, p, sample_weight) for y, p in columns]))
        return function(
            truth, predicted, labels=list(classes), sample_weight=sample_weight, **options
        )

    return f"`{function.__name__}`", reference


def repeated(function: Callable[..., Any]) -> Reference:
    """A correlation of SciPy, with whole weights as repeated rows."""

    def reference(truth: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
        rows = np.repeat(np.arange(len(truth)), 1 if sample_weight is None else sample_weight)
        return function(truth[rows], predicted[rows]).statistic

    return f"`scipy.stats.{function.__name__}`", reference


def kappa(weights: str | None) -> Reference:
    def reference(truth: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
        classes = range(max(truth.max(), predicted.max()) + 1)
        return sk.cohen_kappa_score(
            truth, predicted, labels=list(classes), weights=weights, sample_weight=sample_weight
        )

    return "`cohen_kappa_score`", reference


def terms(function: Callable[..., Any]) -> Reference:
    """A weighted mean over rows, summed exactly."""

    def reference(truth: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
        weights = np.ones(len(truth)) if sample_weight is None else sample_weight
        rows = zip(truth, predicted, weights, strict=True)
        return math.fsum(w * function(y, p) for y, p, w in rows) / math.fsum(weights)

    return "definition", reference


def wape(truth: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
    return sk.mean_absolute_error(
        truth, predicted, sample_weight=sample_weight
    ) / sk.mean_absolute_error(truth, 0 * truth, sample_weight=sample_weight)


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
    return sk.balanced_accuracy_score(truth, predicted, sample_weight=sample_weight)


def rmse_log(truth: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
    return sk.root_mean_squared_error(np.log(truth), np.log(predicted), sample_weight=sample_weight)


def winkler(y: float, bounds: np.ndarray) -> float:
    lower, upper = bounds
    return upper - lower + 20 * (max(lower - y, 0) + max(y - upper, 0))


def plain(function: Callable[..., Any], **options: Any) -> Reference:
    return f"`{function.__name__}`", partial(function, **options)


OPTIONS = {"mase": {"scale": 2.5}, "pinball": {"level": 0.3}}
NO_LABELS = ("brier", "log_loss")  # the reference takes classes only
REFERENCES: dict[str, Reference] = {
    "accuracy": plain(sk.accuracy_score),
    "balanced_accuracy": ("`balanced_accuracy_score`", balanced_accuracy),
    "f1": averaged(sk.f1_score, "binary"),
    "precision": averaged(sk.precision_score, "binary"),
    "recall": averaged(sk.recall_score, "binary"),
    "f1_macro": averaged(sk.f1_score, "macro"),
    "f1_micro": averaged(sk.f1_score, "micro"),
    "f1_weighted": averaged(sk.f1_score, "weighted"),
    "f1_samples": averaged(sk.f1_score, "samples"),
    "precision_macro": averaged(sk.precision_score, "macro"),
    "precision_micro": averaged(sk.precision_score, "micro"),
    "recall_macro": averaged(sk.recall_score, "macro"),
    "recall_micro": averaged(sk.recall_score, "micro"),
    "jaccard_macro": averaged(sk.jaccard_score, "macro"),
    "exact_match": plain(sk.accuracy_score),
    "hamming_loss": plain(sk.hamming_loss),
    "mcc": plain(sk.matthews_corrcoef),
    "cohen_kappa": kappa(None),
    "linear_kappa": kappa("linear"),
    "quadratic_kappa": kappa("quadratic"),
    "roc_auc": ("`roc_auc_score`", partial(sk.roc_auc_score, multi_class="ovr")),
    "average_precision": plain(sk.average_precision_score),
    "log_loss": of_classes(sk.log_loss),
    "brier": of_classes(sk.brier_score_loss),
    "top3_accuracy": of_classes(sk.top_k_accuracy_score, k=3),
    "rmse": plain(sk.root_mean_squared_error),
    "mse": plain(sk.mean_squared_error),
    "mae": plain(sk.mean_absolute_error),
    "median_ae": plain(sk.median_absolute_error),
    "r2": plain(sk.r2_score),
    "rmsle": plain(sk.root_mean_squared_log_error),
    "rmse_log": ("`root_mean_squared_error` of logarithms", rmse_log),
    "mape": plain(sk.mean_absolute_percentage_error),
    "smape": terms(lambda y, p: 2 * abs(y - p) / (abs(y) + abs(p)) if y or p else 0.0),
    "wape": ("ratio of two `mean_absolute_error`", wape),
    "mase": terms(lambda y, p: abs(y - p) / 2.5),
    "pinball": plain(sk.mean_pinball_loss, alpha=0.3),
    "spearman": repeated(scipy.stats.spearmanr),
    "pearson": repeated(scipy.stats.pearsonr),
    "kendall": repeated(scipy.stats.kendalltau),
    "coverage": terms(lambda y, b: b[0] <= y <= b[1]),
    "interval_score": terms(winkler),
    "interval_width": terms(lambda y, b: b[1] - b[0]),
}

if __name__ == "__main__":
    print("\n".join(metrics_table()))
