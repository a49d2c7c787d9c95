"""The target column as numbers to train on, and model outputs as predictions to submit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_heads import TargetScaler, get_metric
from mlx_kaggle.competition import Competition
from mlx_kaggle.errors import DataError
from mlx_tabtext import parse_number


@dataclass(frozen=True)
class Target:
    """Encodes cells; a prediction is (N, classes) probabilities or (N,) values."""

    competition: Competition
    source: str = "the table"

    def encode(self, cells: Sequence[Any]) -> np.ndarray:
        """Class indices (int64), or values (float64)."""
        name = self.competition.target
        if self.competition.task == "regression":
            return np.array([self._value(row, cell) for row, cell in enumerate(cells)], np.float64)
        index = {label: number for number, label in enumerate(self.competition.classes)}
        labels = [str(cell).strip() for cell in cells]
        unseen = sorted(set(labels) - set(index))
        if unseen:
            row = labels.index(unseen[0]) + 2
            raise DataError(
                f"{self.source}, row {row}: class {unseen[0]!r} of {name!r} does not occur in the "
                f"training data ({', '.join(self.competition.classes[:8])})"
            )
        return np.array([index[label] for label in labels], np.int64)

    def _value(self, row: int, cell: Any) -> float:
        name = self.competition.target
        written = self.competition.schema[name].number_format
        value = parse_number(cell, written)
        if value is None:
            how = f" written as {written}, as in the training data" if written else ""
            raise DataError(f"{self.source}, row {row + 2}: {name} is {cell!r}, not a number{how}")
        return value

    def fit_scaler(self, values: np.ndarray) -> TargetScaler:
        """Standardize a regression target, on its logarithm when the metric is one of logs."""
        return TargetScaler.fit(values, "log1p" if self.competition.log_target else "standard")

    def combine(self, predictions: Sequence[np.ndarray]) -> np.ndarray:
        """Average models or views; values in log space when the metric lives there."""
        stacked = np.stack([np.asarray(each, np.float64) for each in predictions])
        if self.competition.log_target:
            return np.expm1(np.log1p(stacked).mean(0))
        return stacked.mean(0)

    def score(
        self, encoded: np.ndarray, prediction: np.ndarray, metric: str | None = None
    ) -> float:
        """The metric of `prediction` against encoded cells."""
        chosen = get_metric(metric or self.competition.metric)
        if chosen.needs == "label":
            return chosen(encoded, prediction.argmax(1))
        return chosen(encoded, prediction)

    def labels(self, prediction: np.ndarray) -> list[str]:
        """The most probable class of each row, as the training file spells it."""
        return [self.competition.classes[number] for number in prediction.argmax(1)]


def side_metrics(competition: Competition) -> list[str]:
    """The metrics shown beside the competition's own."""
    names = {
        "binary": ["accuracy", "f1", "roc_auc", "log_loss"],
        "multiclass": ["accuracy", "f1_macro", "log_loss"],
        "regression": ["rmse", "mae", "r2"],
    }[competition.task]
    return [name for name in names if name != competition.metric]
