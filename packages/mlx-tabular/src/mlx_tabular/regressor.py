"""TabM for values."""

from typing import Any, Self

import mlx.core as mx
import numpy as np

from mlx_tabular.estimator import Tabular
from mlx_tabular.splits import hold_out
from mlx_tabular.tables import check_table, check_values, check_weights
from mlx_tabular.training import Objective


def _row_loss(outputs: mx.array, targets: mx.array) -> mx.array:
    return mx.square(outputs - targets[:, None]).mean((1, 2))


def _ensemble(outputs: mx.array) -> mx.array:
    return outputs.mean(1)


def _score(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(np.square(predicted - targets).mean(1), weights=weights))


class TabularRegressor(Tabular):
    """TabM for one or more values a row, which it standardizes.

    The loss is the mean of the members' squared errors; the prediction is the mean of theirs.
    Arguments and attributes: see `Tabular`.
    """

    _objective = Objective(_row_loss, _ensemble, _score)

    def fit(
        self,
        X: object,
        y: object,
        sample_weight: object = None,
        validation: tuple[object, object] | None = None,
    ) -> Self:
        """Fit to X (N, columns) and y (N,) or (N, T); `validation` is another (X, y).

        Rows of weight 0 are left out. Raises `ValueError` for tables that it cannot learn.
        """
        self._check_settings()
        table = check_table(X)
        values = check_values(y, len(table))
        weights = check_weights(sample_weight, len(table))
        used = weights > 0
        table, weights, values = table[used], weights[used], values[used]
        self._n_targets = 0 if values.ndim == 1 else values.shape[1]
        held = np.zeros(len(table), bool)
        if validation is None:
            held = hold_out(len(table), self.validation_fraction, self.seed)
        columns = values.reshape(len(values), -1)
        self._mean = columns[~held].mean(0)
        scale = columns[~held].std(0)
        self._scale = np.where(scale > 0, scale, 1.0)
        known = None
        if validation is not None:
            other = check_table(validation[0], table.shape[1])
            targets = check_values(validation[1], len(other), "validation y")
            if targets.shape[1:] != values.shape[1:]:
                raise ValueError(
                    f"validation y has the shape {targets.shape}, but y has {values.shape}"
                )
            known = other, self._standardize(targets)
        return self._fit(table, self._standardize(values), weights, known, held, len(self._mean))

    def predict(self, X: object) -> np.ndarray:
        """Return values (N,), or (N, T) if `fit` was given such."""
        scaled = self._predict(X)
        found = scaled * self._scale + self._mean
        return found if self._n_targets else found[:, 0]

    def score(self, X: object, y: object, sample_weight: object = None) -> float:
        """Return R squared, the mean over the targets."""
        predicted = self.predict(X)
        y = np.asarray(y, np.float64)
        weights: Any = sample_weight
        error = np.average((y - predicted) ** 2, axis=0, weights=weights)
        spread = np.average((y - np.average(y, axis=0, weights=weights)) ** 2, 0, weights=weights)
        return float(np.mean(1 - error / spread))

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of an estimator."""
        return self._tags("regressor")

    def _standardize(self, values: np.ndarray) -> np.ndarray:
        scaled = (values.reshape(len(values), -1) - self._mean) / self._scale
        return scaled.astype(np.float32)

    def _fitted_values(self) -> dict[str, Any]:
        return {
            "mean": self._mean.tolist(),
            "scale": self._scale.tolist(),
            "n_targets": self._n_targets,
        }

    def _restore(self, values: dict[str, Any]) -> int:
        self._mean, self._scale = np.array(values["mean"]), np.array(values["scale"])
        self._n_targets = values["n_targets"]
        return len(self._mean)
