"""A competition as inferred from its tables: target, columns, metric, submission format."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from mlx_heads import TargetScaler, get_metric
from mlx_kaggle import DataError
from mlx_tabtext import Schema, parse_number

Rows = Sequence[int] | np.ndarray | None

METRICS_OF_TASK = {
    "binary": ["accuracy", "f1", "roc_auc", "log_loss"],
    "multiclass": ["accuracy", "f1_macro", "log_loss"],
    "regression": ["rmse", "mae", "r2"],
}


@dataclass(frozen=True)
class Format:
    """The columns of a submission in order, and the content of those that are not ids.

    "label": the class, spelled by `spelling`. "probability": that of the second class. "classes":
    one probability per column, in the order of `classes`. "value": the predicted number.
    """

    columns: tuple[str, ...]
    ids: tuple[str, ...]
    content: Literal["label", "probability", "classes", "value"]
    classes: tuple[str, ...] = ()
    spelling: dict[str, str] = field(default_factory=dict)

    @property
    def predictions(self) -> list[str]:
        """The columns that are not ids."""
        return [name for name in self.columns if name not in self.ids]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Format":
        """Rebuild from `dataclasses.asdict`, also after JSON."""
        return cls(**_with_tuples(values, "columns", "ids", "classes"))

    def __str__(self) -> str:
        names = self.predictions
        what = {
            "label": f"the class in {names[0]!r}",
            "probability": f"the probability of {''.join(self.classes[-1:])!r} in {names[0]!r}",
            "value": f"the number in {names[0]!r}",
            "classes": f"probabilities in {list_names(names)}, of the classes "
            f"{list_names(self.classes)}",
        }[self.content]
        ids = f"ids in {', '.join(map(repr, self.ids))}, " if self.ids else ""
        return ids + what


@dataclass(frozen=True)
class Competition:
    """The facts inferred from the tables: shown to the user, saved in the run, used to predict."""

    schema: Schema
    target: str
    task: str
    metric: str
    classes: tuple[str, ...]
    id_column: str | None
    log_target: bool = False
    template: str | None = None
    submission_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    submission: Format | None = None
    """Format of the sample submission; `None` without one, and in runs of earlier versions."""

    @property
    def feature_names(self) -> list[str]:
        """The columns that a model may learn from."""
        return [column.name for column in self.schema.features]

    @property
    def metrics(self) -> list[str]:
        """The metric of the competition, then the others of its task."""
        others = METRICS_OF_TASK[self.task]
        return [self.metric, *(name for name in others if name != self.metric)]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        form = asdict(self.submission) if self.submission else None
        return {**values, "schema": self.schema.to_dict(), "submission": form}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Competition":
        """Rebuild from `to_dict`."""
        values = _with_tuples(values, "classes", "submission_columns", "notes")
        form = values.get("submission")
        values["submission"] = Format.from_dict(form) if form else None
        return cls(**{**values, "schema": Schema.from_dict(values["schema"])})


@dataclass(frozen=True)
class Target:
    """Encodes the target; combines and scores predictions.

    A prediction is (N, classes) probabilities or (N,) values. `source` names the file in errors.
    """

    competition: Competition
    source: str = "the table"

    def encode(self, cells: Sequence[Any], rows: Rows = None) -> np.ndarray:
        """Return class indices (int64) or values (float64).

        `rows` are the positions of the cells in their file, for errors, when rows were dropped.
        """
        competition = self.competition
        if competition.task == "regression":
            values = [self._value(cell, at, rows) for at, cell in enumerate(cells)]
            return np.array(values, np.float64)
        index = {normalize_label(label): code for code, label in enumerate(competition.classes)}
        index |= {label: code for code, label in enumerate(competition.classes)}
        codes = [self._code(cell, at, rows, index) for at, cell in enumerate(cells)]
        return np.array(codes, np.int64)

    def _code(self, cell: Any, at: int, rows: Rows, index: dict[str, int]) -> int:
        label = str(cell).strip()
        code = index.get(label, index.get(normalize_label(label)))
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

    def fit_scaler(self, values: np.ndarray) -> TargetScaler | None:
        """Standardize a regression target, or its logarithm for a metric of logarithms."""
        if self.competition.task != "regression":
            return None
        return TargetScaler.fit(values, "log1p" if self.competition.log_target else "standard")

    def constant(self, encoded: np.ndarray, rows: int) -> np.ndarray:
        """Predict the share of each class, or the mean, for every row."""
        if self.competition.task == "regression":
            return np.full(rows, encoded.mean())
        shares = np.bincount(encoded, minlength=len(self.competition.classes)) / len(encoded)
        return np.tile(shares, (rows, 1))

    def combine(self, predictions: Sequence[np.ndarray]) -> np.ndarray:
        """Average predictions, in log space for a metric of logarithms."""
        stacked = np.stack([np.asarray(each, np.float64) for each in predictions])
        if self.competition.log_target:
            return np.expm1(np.log1p(stacked).mean(0))
        return stacked.mean(0)

    def score(
        self, encoded: np.ndarray, prediction: np.ndarray, metric: str | None = None
    ) -> float:
        """Return the metric of `prediction` against encoded cells.

        The area under the curve is the mean over the classes that occur: the only row of a class is
        never in a validation set, and without it the score would be undefined.
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

    def scores(self, encoded: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
        """Return every metric of the task."""
        names = self.competition.metrics
        return {name: self.score(encoded, prediction, name) for name in names}

    def labels(self, prediction: np.ndarray) -> list[str]:
        """Return the most probable class of each row, spelled as in the training file."""
        return [self.competition.classes[code] for code in prediction.argmax(1)]


def normalize_label(label: str) -> str:
    """Normalize the spelling of a label: `1.0` becomes `1`, `TRUE` becomes `true`."""
    number = as_number(label)
    return label.strip().casefold() if number is None else f"{number:.15g}"


def as_number(value: Any) -> float | None:
    """Convert to a float; `None` if it is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def list_names(names: Sequence[str], shown: int = 12) -> str:
    """Join the first names, and append the number of others."""
    more = f", ... {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) or "none") + more


def _with_tuples(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**values, **{name: tuple(values[name]) for name in names}}
