"""The metrics by name, with their input and direction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean
from mlx_heads.metrics import inputs, labels, probabilities, values

MetricInput = Literal["label", "probability", "value"]
MetricFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], float]

DEFAULT_METRIC = {"binary": "accuracy", "multiclass": "accuracy", "regression": "rmse"}

_PREPARE = {
    "label": inputs.check_labels,
    "probability": inputs.check_probabilities,
    "value": inputs.check_values,
}


@dataclass(frozen=True)
class Metric:
    """A score of predictions; `needs` is the kind of predictions, `tasks` the tasks it applies to.

    "label": (N,) class numbers or strings. "probability": (N, K) rows that sum to one, or (N,) of
    class 1; the truth is class numbers. "value": (N,) numbers.
    """

    name: str
    function: MetricFunction
    greater_is_better: bool
    needs: MetricInput
    tasks: tuple[str, ...]

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the score, NaN if the metric is undefined.

        Raises `ValueError` or `TypeError` with the row or shape for invalid inputs.
        """
        truth, predicted = _PREPARE[self.needs](y_true, y_pred)
        return self.function(truth, predicted, inputs.check_weights(len(truth), sample_weight))


def get_metric(name: str) -> Metric:
    """Return the metric `name`; raises `ValueError` with the nearest known name."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}{did_you_mean(str(name), METRICS)}")
    return METRICS[name]


_BINARY = ("binary",)
_CLASSES = ("binary", "multiclass")
_REGRESSION = ("regression",)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", labels.accuracy, True, "label", _CLASSES),
        Metric("balanced_accuracy", labels.balanced_accuracy, True, "label", _CLASSES),
        Metric("f1", labels.f1, True, "label", _BINARY),
        Metric("f1_macro", labels.f1_macro, True, "label", _CLASSES),
        # With one label per row, every false positive is another class's false negative.
        Metric("f1_micro", labels.accuracy, True, "label", _CLASSES),
        Metric("precision", labels.precision, True, "label", _BINARY),
        Metric("recall", labels.recall, True, "label", _BINARY),
        Metric("mcc", labels.mcc, True, "label", _CLASSES),
        Metric("quadratic_kappa", labels.quadratic_kappa, True, "label", _CLASSES),
        Metric("roc_auc", probabilities.roc_auc, True, "probability", _CLASSES),
        Metric("average_precision", probabilities.average_precision, True, "probability", _BINARY),
        Metric("log_loss", probabilities.log_loss, False, "probability", _CLASSES),
        Metric("brier", probabilities.brier, False, "probability", _CLASSES),
        Metric("rmse", values.rmse, False, "value", _REGRESSION),
        Metric("mse", values.mse, False, "value", _REGRESSION),
        Metric("mae", values.mae, False, "value", _REGRESSION),
        Metric("median_ae", values.median_ae, False, "value", _REGRESSION),
        Metric("r2", values.r2, True, "value", _REGRESSION),
        Metric("rmsle", values.rmsle, False, "value", _REGRESSION),
        Metric("rmse_log", values.rmse_log, False, "value", _REGRESSION),
        Metric("mape", values.mape, False, "value", _REGRESSION),
        Metric("smape", values.smape, False, "value", _REGRESSION),
        Metric("spearman", values.spearman, True, "value", _REGRESSION),
        Metric("pearson", values.pearson, True, "value", _REGRESSION),
    )
}
