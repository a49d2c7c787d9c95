"""The metrics by name, with their input and direction."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean
from mlx_heads.metrics import inputs, intervals, labels, probabilities, values

MetricInput = Literal["label", "probability", "value", "interval"]
# Of truth, prediction and weights, then the options of the metric by name.
MetricFunction = Callable[..., float]

DEFAULT_METRIC = {
    "binary": "accuracy",
    "multiclass": "accuracy",
    "multilabel": "f1_macro",
    "ordinal": "quadratic_kappa",
    "regression": "rmse",
    "forecast": "mae",
}

_PREPARE = {
    "label": inputs.check_labels,
    "probability": inputs.check_probabilities,
    "value": inputs.check_values,
    "interval": inputs.check_intervals,
}


@dataclass(frozen=True)
class Metric:
    """A score of predictions; `needs` is the kind of predictions, `tasks` the tasks it applies to.

    "label": (N,) class numbers or strings, or (N, M) zeros and ones of M labels. "probability":
    (N, K) rows that sum to one, or (N,) of class 1, where the truth is (N,) class numbers; (N, M)
    where it is (N, M) labels. "value": (N,) numbers, or (N, T). "interval": (N, 2) lower and upper
    bounds of (N,) numbers, or (N, T, 2). The score of (N, T) is the mean over the T columns; to
    pool the steps of a forecast, pass raveled arrays.
    """

    name: str
    function: MetricFunction
    greater_is_better: bool
    needs: MetricInput
    tasks: tuple[str, ...]

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        **options: ArrayLike,
    ) -> float:
        """Return the score, NaN if the metric is undefined. Rows of weight zero do not count.

        Options: `level` of pinball (0.5) and interval_score (0.9), `scale` of mase. Raises
        `ValueError` or `TypeError` with the row or shape for invalid inputs.
        """
        truth, predicted = _PREPARE[self.needs](y_true, y_pred)
        weights = inputs.check_weights(len(truth), sample_weight)
        counts = weights > 0
        truth, predicted, weights = truth[counts], predicted[counts], weights[counts]
        options = {
            name: np.asarray(value)[counts] if np.shape(value) == counts.shape else value
            for name, value in options.items()
        }
        if self.needs in ("label", "probability"):
            self._check_columns(truth)
        elif truth.ndim == 2:
            columns = zip(truth.T, np.moveaxis(predicted, 1, 0), strict=True)
            return float(np.mean([self.function(y, p, weights, **options) for y, p in columns]))
        return self.function(truth, predicted, weights, **options)

    def by_column(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        **options: ArrayLike,
    ) -> np.ndarray:
        """Return the scores of each label or target alone, (M,) or (T,), for (N, M) or (N, T)."""
        truth, predicted = np.asarray(y_true), np.asarray(y_pred)
        if truth.ndim != 2 or predicted.shape[:2] != truth.shape:
            raise ValueError(
                f"by_column needs y_true and y_pred with the same columns, "
                f"got shapes {truth.shape} and {predicted.shape}"
            )
        columns = [[column] for column in range(truth.shape[1])]
        scores = [
            self(truth[:, each], predicted[:, each], sample_weight, **options) for each in columns
        ]
        return np.array(scores)

    def _check_columns(self, truth: np.ndarray) -> None:
        if truth.ndim == 2 and "multilabel" not in self.tasks:
            others = ", ".join(name for name, each in METRICS.items() if "multilabel" in each.tasks)
            raise ValueError(
                f"{self.name} needs one class per row, got y_true of shape {truth.shape}; "
                f"metrics of several labels: {others}"
            )
        if truth.ndim == 1 and self.tasks == _LABELS:
            raise ValueError(
                f"{self.name} needs (N, M) zeros and ones, one column for each label, "
                f"got y_true of shape {truth.shape}"
            )


def get_metric(name: str) -> Metric:
    """Return the metric `name`; raises `ValueError` with the nearest known name."""
    if name not in METRICS:
        meant = _OTHER_NAMES.get(str(name).lower())
        hint = f"; did you mean {meant!r}?" if meant else did_you_mean(str(name), METRICS)
        raise ValueError(f"unknown metric {name!r}{hint}")
    return METRICS[name]


def _averaged(score: labels.Score, average: labels.Average) -> MetricFunction:
    return partial(labels.averaged, score=score, average=average)


def _kappa(distance: labels.Distance | None) -> MetricFunction:
    return partial(labels.kappa, distance=distance)


_BINARY = ("binary",)
_LABELS = ("multilabel",)
_CLASSES = ("binary", "multiclass", "ordinal")
_NUMBERS = ("regression", "forecast")

_AVERAGES: tuple[tuple[labels.Score, labels.Average, tuple[str, ...]], ...] = (
    ("f1", "macro", _CLASSES + _LABELS),
    ("f1", "micro", _CLASSES + _LABELS),
    ("f1", "weighted", _CLASSES + _LABELS),
    ("f1", "samples", _LABELS),
    ("precision", "macro", _CLASSES + _LABELS),
    ("precision", "micro", _CLASSES + _LABELS),
    ("recall", "macro", _CLASSES + _LABELS),
    ("recall", "micro", _CLASSES + _LABELS),
    ("jaccard", "macro", _CLASSES + _LABELS),
)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", labels.accuracy, True, "label", _CLASSES),
        Metric("balanced_accuracy", labels.balanced_accuracy, True, "label", _CLASSES),
        Metric("f1", _averaged("f1", "binary"), True, "label", _BINARY),
        Metric("precision", _averaged("precision", "binary"), True, "label", _BINARY),
        Metric("recall", _averaged("recall", "binary"), True, "label", _BINARY),
        *(
            Metric(f"{score}_{average}", _averaged(score, average), True, "label", tasks)
            for score, average, tasks in _AVERAGES
        ),
        Metric("exact_match", labels.exact_match, True, "label", _LABELS),
        Metric("hamming_loss", labels.hamming_loss, False, "label", _LABELS),
        Metric("mcc", labels.mcc, True, "label", _CLASSES),
        Metric("cohen_kappa", _kappa(None), True, "label", _CLASSES),
        Metric("linear_kappa", _kappa("linear"), True, "label", _CLASSES),
        Metric("quadratic_kappa", _kappa("quadratic"), True, "label", _CLASSES),
        Metric("roc_auc", probabilities.roc_auc, True, "probability", _CLASSES + _LABELS),
        Metric(
            "average_precision",
            probabilities.average_precision,
            True,
            "probability",
            _BINARY + _LABELS,
        ),
        Metric("log_loss", probabilities.log_loss, False, "probability", _CLASSES + _LABELS),
        Metric("brier", probabilities.brier, False, "probability", _CLASSES + _LABELS),
        Metric("ece", probabilities.ece, False, "probability", _CLASSES + _LABELS),
        Metric("top3_accuracy", probabilities.top_accuracy, True, "probability", _CLASSES),
        Metric("map_at_3", probabilities.mean_average_precision, True, "probability", _CLASSES),
        Metric("rmse", values.rmse, False, "value", (*_NUMBERS, "ordinal")),
        # Kaggle's name for the mean over columns, which is the rule for every metric of values.
        Metric("mcrmse", values.rmse, False, "value", _NUMBERS),
        Metric("mse", values.mse, False, "value", (*_NUMBERS, "ordinal")),
        Metric("mae", values.mae, False, "value", (*_NUMBERS, "ordinal")),
        Metric("median_ae", values.median_ae, False, "value", _NUMBERS),
        Metric("r2", values.r2, True, "value", _NUMBERS),
        Metric("rmsle", values.rmsle, False, "value", _NUMBERS),
        Metric("rmse_log", values.rmse_log, False, "value", _NUMBERS),
        Metric("mape", values.mape, False, "value", _NUMBERS),
        Metric("smape", values.smape, False, "value", _NUMBERS),
        Metric("wape", values.wape, False, "value", _NUMBERS),
        Metric("mase", values.mase, False, "value", ("forecast",)),
        Metric("pinball", values.pinball, False, "value", _NUMBERS),
        Metric("spearman", values.spearman, True, "value", (*_NUMBERS, "ordinal")),
        Metric("pearson", values.pearson, True, "value", _NUMBERS),
        Metric("kendall", values.kendall, True, "value", (*_NUMBERS, "ordinal")),
        Metric("coverage", intervals.coverage, True, "interval", _NUMBERS),
        Metric("interval_score", intervals.interval_score, False, "interval", _NUMBERS),
        Metric("interval_width", intervals.interval_width, False, "interval", _NUMBERS),
    )
}

# Usual names too far from ours for the nearest spelling; suggested, not accepted.
_OTHER_NAMES = {
    "auc": "roc_auc",
    "auroc": "roc_auc",
    "map": "average_precision",
    "map@3": "map_at_3",
    "matthews_corrcoef": "mcc",
    "mean_absolute_error": "mae",
    "mean_squared_error": "mse",
    "qwk": "quadratic_kappa",
    "root_mean_squared_error": "rmse",
    "subset_accuracy": "exact_match",
    "winkler": "interval_score",
    "wmape": "wape",
}
