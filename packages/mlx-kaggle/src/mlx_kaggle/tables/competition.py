"""A competition as inferred from its tables: targets, columns, metric, submission format."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from mlx_tabtext import Schema

Task = Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "forecast"]
# Tasks whose predictions are numbers, and those with one label per row of several classes.
VALUE_TASKS = ("regression", "forecast")
CLASS_TASKS = ("binary", "multiclass", "ordinal")
METRICS_OF_TASK = {
    "binary": ["accuracy", "f1", "roc_auc", "log_loss", "ece"],
    "multiclass": ["accuracy", "f1_macro", "log_loss", "ece"],
    "multilabel": ["f1_macro", "f1_micro", "roc_auc", "log_loss"],
    "ordinal": ["quadratic_kappa", "accuracy", "mae"],
    "regression": ["rmse", "mae", "r2"],
    "forecast": ["mae", "rmse", "smape", "mase"],
}
# Spellings of a label that is not there, and of one that is, normalized by `normalize_label`.
LABEL_PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))
LABEL_CODES = {label: code for pair in LABEL_PAIRS for code, label in enumerate(pair)}
NOT_A_LABEL = "not a label of 0 or 1 (or false and true, no and yes)"
# In a label column: the label of the row is unknown.
UNSCORED = "-1"
# Added for predictions with an interval.
INTERVAL_METRICS = ["coverage", "interval_score"]


@dataclass(frozen=True)
class Format:
    """The columns of a submission in order, and the content of those that are not ids.

    "label": the class, spelled by `spelling`. "probability": that of the second class. "classes":
    one probability per column, in the order of `classes`. "value": the predicted number. With
    several targets, `targets` are those of the columns that are not ids, and "label" is 0 or 1.
    """

    columns: tuple[str, ...]
    ids: tuple[str, ...]
    content: Literal["label", "probability", "classes", "value"]
    classes: tuple[str, ...] = ()
    spelling: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()

    @property
    def predictions(self) -> list[str]:
        """The columns that are not ids."""
        return [name for name in self.columns if name not in self.ids]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Format":
        """Rebuild from `dataclasses.asdict`, also after JSON."""
        return cls(**_with_tuples(values, "columns", "ids", "classes", "targets"))

    def __str__(self) -> str:
        names = self.predictions
        ids = f"ids in {', '.join(map(repr, self.ids))}, " if self.ids else ""
        if self.targets:
            what = {"label": "0 or 1", "probability": "probabilities"}.get(self.content, "numbers")
            return f"{ids}{what} in {list_names(names)}"
        what = {
            "label": f"the class in {names[0]!r}",
            "probability": f"the probability of {''.join(self.classes[-1:])!r} in {names[0]!r}",
            "value": f"the number in {names[0]!r}",
            "classes": f"probabilities in {list_names(names)}, of the classes "
            f"{list_names(self.classes)}",
        }[self.content]
        return ids + what


@dataclass(frozen=True)
class Forecast:
    """How a table is read as time series; one step is one row of a series.

    A row of the windows table is one origin: the past steps, and the next `horizon` as targets.
    """

    target: str
    time: str
    horizon: int
    lookback: int
    """Past steps that a model reads, the origin included."""
    season: int
    """Steps of a season, as of the seasonal naive forecast; 1 without one."""
    series: tuple[str, ...] = ()
    """Columns whose cells name the series of a row together; none for one series."""
    date_format: str | None = None
    """Format of the times; `None` if they are plain numbers."""
    unit: Literal["seconds", "months", "number"] = "number"
    step: float | None = None
    """Units from one row of a series to the next; `None` if they vary: steps are rows then."""
    nonnegative: bool = False
    """Whether predictions below 0 become 0, for rmsle, which is undefined below -1."""
    naive_errors: dict[str, float] = field(default_factory=dict)
    """Of each series ("" for the only one): mean absolute error of the seasonal naive forecast on
    the rows before the first validated origin, 0 without any. The scale of MASE."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Forecast":
        """Rebuild from the JSON form; older runs have the name of one column, or none."""
        series = values["series"] or ()
        return cls(**{**values, "series": (series,) if isinstance(series, str) else tuple(series)})

    @property
    def lags(self) -> tuple[str, ...]:
        """The columns of the past in the unit of the window, the origin first."""
        ago = ("now", "1 step ago", *(f"{n} steps ago" for n in range(2, self.lookback)))
        return tuple(f"{self.target} {each}" for each in ago[: self.lookback])

    @property
    def steps(self) -> tuple[str, ...]:
        """The target columns, one per step."""
        after = ("1 step", *(f"{n} steps" for n in range(2, self.horizon + 1)))
        return tuple(f"{self.target} in {each}" for each in after)

    @property
    def level(self) -> str:
        """The column with the mean of a window."""
        return f"{self.target} level"

    @property
    def spread(self) -> str:
        """The column with the standard deviation of a window."""
        return f"{self.target} spread"

    @property
    def last_value(self) -> str:
        """The column with the value of the origin."""
        return f"{self.target} last value"

    @property
    def change_steps(self) -> int:
        """A season, or the lookback without one."""
        return min(self.season if self.season > 1 else self.lookback, self.lookback - 1)

    @property
    def change(self) -> str:
        """The column with the change in `change_steps`."""
        return f"{self.target} change in {self.change_steps} steps"

    @property
    def facts(self) -> tuple[str, ...]:
        """The columns in the unit of the target: for the text only.

        A linear model would extrapolate them; the lags look alike at every level.
        """
        return self.last_value, self.level, self.spread, self.change

    @property
    def naive_error(self) -> str:
        """The column with the scale of MASE of the series of a row."""
        return f"{self.target} naive error"


@dataclass(frozen=True)
class Competition:
    """The facts inferred from the tables: shown to the user, saved in the run, used to predict."""

    schema: Schema
    targets: tuple[str, ...]
    """One column; several of a multilabel task or a regression; one per step of a forecast."""
    task: Task
    metric: str
    classes: tuple[str, ...]
    """The classes of one target, in order; the targets of a multilabel task."""
    id_column: str | None
    log_target: bool = False
    template: str | None = None
    submission_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    submission: Format | None = None
    """Format of the sample submission; `None` without one, and in runs of earlier versions."""
    forecast: Forecast | None = None

    @property
    def target(self) -> str:
        """The target column, or the first ones, for messages."""
        if self.forecast:
            return self.forecast.target
        return self.targets[0] if len(self.targets) == 1 else list_names(self.targets, 5)

    @property
    def several(self) -> bool:
        """Whether a prediction has one output for each of several targets."""
        return self.task == "multilabel" or len(self.targets) > 1

    @property
    def outputs(self) -> int:
        """Classes, labels, numbers or steps of a prediction: the size of the head."""
        return len(self.classes) if self.classes else len(self.targets)

    @property
    def feature_names(self) -> list[str]:
        """The columns that a model may learn from."""
        return [column.name for column in self.schema.features]

    @property
    def text_schema(self) -> Schema:
        """The schema for the text of a row: that of a forecast has facts instead of the lags."""
        if not self.forecast:
            return self.schema
        lags, facts = set(self.forecast.lags), set(self.forecast.facts)
        columns = []
        for column in self.schema.columns:
            if column.name in lags:
                column = replace(column, kind="ignored", reason="a lag; the text has facts instead")
            elif column.name in facts:
                column = replace(column, kind="numeric", reason="a fact about the window")
            columns.append(column)
        return replace(self.schema, columns=tuple(columns))

    @property
    def metrics(self) -> list[str]:
        """The metric of the competition, then the others of its task."""
        others = METRICS_OF_TASK[self.task]
        same = (self.metric, "rmse") if self.metric == "mcrmse" else (self.metric,)
        return [self.metric, *(name for name in others if name not in same)]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {
            **values,
            "schema": self.schema.to_dict(),
            "submission": asdict(self.submission) if self.submission else None,
            "forecast": asdict(self.forecast) if self.forecast else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Competition":
        """Rebuild from `to_dict`."""
        values = _with_tuples(values, "targets", "classes", "submission_columns", "notes")
        form, forecast = values["submission"], values["forecast"]
        values["submission"] = Format.from_dict(form) if form else None
        values["forecast"] = Forecast.from_dict(forecast) if forecast else None
        return cls(**{**values, "schema": Schema.from_dict(values["schema"])})


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
