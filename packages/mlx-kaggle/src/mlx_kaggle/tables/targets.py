"""Targets of a competition: encode cells, scale, combine and score predictions.

A prediction is an array over rows: (N, classes) or (N, labels) probabilities, (N,) or (N, targets)
values, or (N, targets, 3) of value, lower and upper bound. An ordinal prediction is (N, classes)
probabilities, or (N,) values on the scale of class numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_heads import TargetScaler, get_metric
from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import (
    INTERVAL_METRICS,
    LABEL_CODES,
    NOT_A_LABEL,
    VALUE_TASKS,
    Competition,
    list_names,
    normalize_label,
)
from mlx_kaggle.tables.windows import WindowScaler
from mlx_tabtext import Table, parse_number

Rows = Sequence[int] | np.ndarray | None


@dataclass(frozen=True)
class Target:
    """Encodes the targets; combines and scores predictions. `source` names the file in errors."""

    competition: Competition
    source: str = "the table"

    def encode(self, table: Table, rows: Rows = None) -> np.ndarray:
        """Return (N,) class numbers, (N, labels) of 0 and 1, or (N,) or (N, targets) values.

        `rows` are the positions of the rows in their file, for errors, when rows were dropped.
        """
        competition = self.competition
        if competition.task in VALUE_TASKS:
            columns = [self._values(table, name, rows) for name in competition.targets]
        elif competition.task == "multilabel":
            columns = [self._codes(table, name, LABEL_CODES, rows) for name in competition.targets]
        else:
            index = {normalize_label(label): at for at, label in enumerate(competition.classes)}
            index |= {label: code for code, label in enumerate(competition.classes)}
            columns = [self._codes(table, competition.target, index, rows)]
        return np.stack(columns, 1) if competition.several else columns[0]

    def _codes(self, table: Table, name: str, index: Mapping[str, int], rows: Rows) -> np.ndarray:
        codes = []
        for at, cell in enumerate(table[name]):
            label = str(cell).strip()
            code = index.get(label, index.get(normalize_label(label)))
            if code is None:
                place = self._place(at, rows)
                if self.competition.task == "multilabel":
                    raise DataError(f"{place}: {name} is {label!r}, {NOT_A_LABEL}")
                raise DataError(
                    f"{place}: class {label!r} of {name!r} does not occur in the training data "
                    f"({list_names(self.competition.classes, 8)})"
                )
            codes.append(code)
        return np.array(codes, np.int64)

    def _values(self, table: Table, name: str, rows: Rows) -> np.ndarray:
        written = self.competition.schema[name].number_format
        values = np.array([parse_number(cell, written) for cell in table[name]], np.float64)
        for at in np.flatnonzero(np.isnan(values))[:1]:
            how = f" written as {written}, as in the training data" if written else ""
            cell = table[name][at]
            raise DataError(f"{self._place(at, rows)}: {name} is {cell!r}, not a number{how}")
        return values

    def _place(self, at: int, rows: Rows) -> str:
        return f"{self.source}, row {(at if rows is None else rows[at]) + 2}"

    def fit_scaler(self, encoded: np.ndarray) -> "Scaler | WindowScaler | None":
        """Standardize values, or their logarithm for a metric of logarithms; `None` for classes.

        The steps of a forecast are scaled by the window of their row.
        """
        if self.competition.forecast:
            return WindowScaler.of(self.competition.forecast)
        if self.competition.task not in VALUE_TASKS:
            return None
        return Scaler.fit(encoded, self.competition.log_target)

    def constant(
        self, encoded: np.ndarray, rows: int, levels: tuple[float, float] | None = None
    ) -> np.ndarray:
        """Predict the share of each class or label, or the mean, for every row.

        With `levels` values become (rows, targets, 3): the mean, and these quantiles.
        """
        competition = self.competition
        if levels is not None:
            columns = encoded.reshape(len(encoded), -1)
            bounds = np.stack([columns.mean(0), *np.quantile(columns, levels, axis=0)], 1)
            return np.broadcast_to(bounds, (rows, *bounds.shape))
        if competition.task in VALUE_TASKS or competition.task == "multilabel":
            return np.broadcast_to(encoded.mean(0), (rows, *encoded.shape[1:]))
        shares = np.bincount(encoded, minlength=len(competition.classes)) / len(encoded)
        return np.tile(shares, (rows, 1))

    def combine(self, predictions: Sequence[np.ndarray]) -> np.ndarray:
        """Average predictions, in log space for a metric of logarithms."""
        stacked = np.stack([np.asarray(each, np.float64) for each in predictions])
        if self.competition.log_target:
            return np.expm1(np.log1p(stacked).mean(0))
        return stacked.mean(0)

    def default_codes(self, prediction: np.ndarray) -> np.ndarray | None:
        """Return class numbers (N,) or labels (N, labels) without fitted thresholds.

        `None` for values. The class of an ordinal prediction is the rounded expected class number
        for a metric of distances, else the most probable one.
        """
        competition = self.competition
        if competition.task in VALUE_TASKS:
            return None
        if competition.task == "multilabel":
            return (prediction >= 0.5).astype(np.int64)
        if prediction.ndim == 1 or competition.metric in ("quadratic_kappa", "mae"):
            expected = self.expected_class(prediction)
            return np.clip(np.rint(expected), 0, len(competition.classes) - 1).astype(np.int64)
        return prediction.argmax(1)

    def expected_class(self, prediction: np.ndarray) -> np.ndarray:
        """Return the expected class number (N,) of an ordinal prediction."""
        if prediction.ndim == 1:
            return prediction
        return prediction @ np.arange(prediction.shape[1])

    def naive_errors(self, table: Table) -> np.ndarray | None:
        """Return the `scale` (N,) of a windows table; `None` without a forecast."""
        forecast = self.competition.forecast
        return np.array(table[forecast.naive_error]) if forecast else None

    def score(
        self,
        encoded: np.ndarray,
        prediction: np.ndarray,
        metric: str | None = None,
        codes: np.ndarray | None = None,
        scale: np.ndarray | None = None,
    ) -> float:
        """Return the metric of `prediction` against encoded cells; NaN if it is not defined.

        `codes` are the predicted class numbers or labels, by default `default_codes`. The metrics
        of a forecast are over all rows and steps together; `scale` are its `naive_errors`, for
        mase. The area under the curve is the mean over the classes that occur: the only row of a
        class is never in a validation set, and without it the score would be undefined.
        """
        task = self.competition.task
        chosen = get_metric(metric or self.competition.metric)
        if chosen.name == "mase":
            return _scaled_error(encoded, point(prediction), scale)
        if chosen.needs == "label" or (task == "ordinal" and chosen.needs == "value"):
            codes = self.default_codes(prediction) if codes is None else codes
            assert codes is not None
            return chosen(encoded, codes)
        if chosen.needs == "interval":
            bounds = prediction[..., 1:] if prediction.ndim == 3 else None
            return np.nan if bounds is None else chosen(encoded.reshape(len(encoded), -1), bounds)
        if task == "forecast":
            return chosen(encoded.ravel(), point(prediction).ravel())
        if task in VALUE_TASKS:
            return chosen(encoded, point(prediction))
        if prediction.ndim == 1:  # an ordinal regression has no probabilities
            return float("nan")
        if chosen.name == "roc_auc" and task == "multiclass":
            encoded, prediction = _occurring_classes(encoded, prediction)
        return chosen(encoded, prediction)

    def scores(
        self,
        encoded: np.ndarray,
        prediction: np.ndarray,
        codes: np.ndarray | None = None,
        scale: np.ndarray | None = None,
    ) -> dict[str, float]:
        """Return every metric of the task; `scale` is for a forecast, as in `score`."""
        names = list(self.competition.metrics)
        if prediction.ndim == 3:
            names += INTERVAL_METRICS
        return {name: self.score(encoded, prediction, name, codes, scale) for name in names}


def _occurring_classes(
    encoded: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the columns of classes without rows, and normalize the rest; keep at least two."""
    present = np.unique(encoded)
    if not 1 < len(present) < prediction.shape[1]:
        return encoded, prediction
    prediction = prediction[:, present]
    prediction = prediction / np.maximum(prediction.sum(1, keepdims=True), 1e-300)
    return np.searchsorted(present, encoded), prediction


@dataclass(frozen=True)
class Scaler:
    """A `TargetScaler` for each target column."""

    columns: tuple[TargetScaler, ...]

    @classmethod
    def fit(cls, encoded: np.ndarray, log: bool) -> "Scaler":
        """Fit to (N,) or (N, targets) training values."""
        columns = encoded.reshape(len(encoded), -1).T
        return cls(tuple(TargetScaler.fit(y, "log1p" if log else "standard") for y in columns))

    def transform(self, encoded: np.ndarray, table: Table) -> np.ndarray:
        """Return float32 targets for the loss; `table` has the rows of `encoded`."""
        values = encoded.reshape(len(encoded), -1).T
        scaled = [each.transform(y) for each, y in zip(self.columns, values, strict=True)]
        return np.stack(scaled, 1).reshape(encoded.shape)

    def inverse(self, outputs: np.ndarray, table: Table) -> np.ndarray:
        """Return values in the unit of the targets, from (N,), (N, targets) or (N, targets, Q)."""
        columns = np.moveaxis(outputs.reshape(len(outputs), len(self.columns), -1), 1, 0)
        values = [each.inverse(z) for each, z in zip(self.columns, columns, strict=True)]
        return np.stack(values, 1).reshape(outputs.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return {"columns": [each.to_dict() for each in self.columns]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scaler | WindowScaler":
        """Rebuild from `to_dict`, also that of a `WindowScaler`."""
        if values.get("kind") == "window":
            return WindowScaler.from_dict(values)
        return cls(tuple(TargetScaler.from_dict(each) for each in values["columns"]))


def _scaled_error(encoded: np.ndarray, values: np.ndarray, scale: np.ndarray | None) -> float:
    """Return the mean |error| / scale of the rows with a scale (Hyndman and Koehler 2006)."""
    if scale is None or not scale.any():
        return float("nan")
    rows = np.flatnonzero(scale)
    return get_metric("mase")(encoded[rows], values[rows], scale=scale[rows])


def point(prediction: np.ndarray) -> np.ndarray:
    """Return the values (N,) or (N, targets) of a prediction, without its interval."""
    if prediction.ndim < 3:
        return prediction
    return prediction[:, 0, 0] if prediction.shape[1] == 1 else prediction[..., 0]
