"""The target column as numbers to train on, and model outputs as predictions to submit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_heads import TargetScaler, get_metric
from mlx_kaggle.errors import DataError
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.task import plain_spelling
from mlx_tabtext import parse_number

Rows = Sequence[int] | np.ndarray | None


@dataclass(frozen=True)
class Target:
    """Encodes cells; a prediction is (N, classes) probabilities or (N,) values."""

    competition: Competition
    source: str = "the table"

    def encode(self, cells: Sequence[Any], rows: Rows = None) -> np.ndarray:
        """Class indices (int64), or values (float64).

        `rows` are the positions of the cells in their file, for messages, where some were left out.
        """
        if self.competition.task == "regression":
            values = [self._value(cell, at, rows) for at, cell in enumerate(cells)]
            return np.array(values, np.float64)
        classes = self.competition.classes
        index = {plain_spelling(label): number for number, label in enumerate(classes)}
        index |= {label: number for number, label in enumerate(classes)}
        codes = [self._code(cell, at, rows, index) for at, cell in enumerate(cells)]
        return np.array(codes, np.int64)

    def _code(self, cell: Any, at: int, rows: Rows, index: dict[str, int]) -> int:
        label = str(cell).strip()
        code = index.get(label, index.get(plain_spelling(label)))
        if code is None:
            raise DataError(
                f"{self._place(at, rows)}: class {label!r} of {self.competition.target!r} does not "
                f"occur in the training data ({', '.join(self.competition.classes[:8])})"
            )
        return code

    def _value(self, cell: Any, at: int, rows: Rows) -> float:
        name = self.competition.target
        written = self.competition.schema[name].number_format
        value = parse_number(cell, written)
        if value is None:
            how = f" written as {written}, as in the training data" if written else ""
            raise DataError(f"{self._place(at, rows)}: {name} is {cell!r}, not a number{how}")
        return value

    def _place(self, at: int, rows: Rows) -> str:
        return f"{self.source}, row {(at if rows is None else rows[at]) + 2}"

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
        """The metric of `prediction` against encoded cells.

        The area under the curve is the mean over the classes that occur: a single row of a class
        never validates, and would leave no score at all.
        """
        chosen = get_metric(metric or self.competition.metric)
        present = np.unique(encoded)
        if chosen.name == "roc_auc" and 1 < len(present) < prediction.shape[1]:
            prediction = prediction[:, present]
            prediction = prediction / np.maximum(prediction.sum(1, keepdims=True), 1e-300)
            encoded = np.searchsorted(present, encoded)
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
