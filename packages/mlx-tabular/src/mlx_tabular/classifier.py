"""TabM for classes."""

from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_tabular.estimator import Tabular
from mlx_tabular.splits import hold_out
from mlx_tabular.tables import check_labels, check_table, check_weights
from mlx_tabular.training import Objective


def _row_loss(outputs: mx.array, targets: mx.array) -> mx.array:
    repeated = mx.broadcast_to(targets[:, None], outputs.shape[:2])
    return nn.losses.cross_entropy(outputs, repeated).mean(1)


def _ensemble(outputs: mx.array) -> mx.array:
    return mx.softmax(outputs, axis=-1).mean(1)


def _score(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    right = predicted[np.arange(len(targets)), targets]
    return -float(np.average(np.log(np.maximum(right, 1e-12)), weights=weights))


class TabularClassifier(Tabular):
    """TabM for two or more classes; `classes_` has their labels, sorted.

    The loss is the mean of the members' cross-entropies; the probability is the mean of theirs.
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
        """Fit to X (N, columns) and labels y (N,); `validation` is another (X, y) to stop early on.

        Rows of weight 0 are left out. Raises `ValueError` for tables that it cannot learn.
        """
        self._check_settings()
        table = check_table(X)
        labels = check_labels(y, len(table))
        weights = check_weights(sample_weight, len(table))
        used = weights > 0
        table, weights = table[used], weights[used]
        self.classes_, targets = np.unique(labels[used], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class only, {self.classes_.tolist()[0]!r}; a classifier needs two"
            )
        targets = targets.astype(np.int32)
        held, known = np.zeros(len(table), bool), None
        if validation is None:
            held = hold_out(len(table), self.validation_fraction, self.seed, targets)
        else:
            other = check_table(validation[0], table.shape[1])
            known = other, self._codes(check_labels(validation[1], len(other), "validation y"))
        return self._fit(table, targets, weights, known, held, len(self.classes_))

    def predict_proba(self, X: object) -> np.ndarray:
        """Return probabilities (N, classes), in the order of `classes_`."""
        return self._predict(X)

    def predict(self, X: object) -> np.ndarray:
        """Return the most probable label of each row."""
        best = self._predict(X).argmax(1)
        return self.classes_[best]

    def score(self, X: object, y: object, sample_weight: object = None) -> float:
        """Return the accuracy."""
        right = self.predict(X) == np.asarray(y)
        return float(np.average(right, weights=sample_weight))  # type: ignore[arg-type]

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of an estimator."""
        return self._tags("classifier")

    def _codes(self, labels: np.ndarray) -> np.ndarray:
        codes = {label: code for code, label in enumerate(self.classes_.tolist())}
        if unseen := [each for each in labels.tolist() if each not in codes]:
            raise ValueError(f"validation has the class {unseen[0]!r}, which y lacks")
        return np.array([codes[each] for each in labels.tolist()], np.int32)

    def _fitted_values(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist(), "dtype": self.classes_.dtype.str}

    def _restore(self, values: dict[str, Any]) -> int:
        self.classes_ = np.array(values["classes"], np.dtype(values["dtype"]))
        return len(self.classes_)
