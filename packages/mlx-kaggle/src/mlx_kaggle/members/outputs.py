"""What the members share: one model per class problem, label, target and level of an interval."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from mlx_kaggle.members.columns import Columns
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition

Levels = tuple[float, float] | None
# Above so many rows scikit-learn's boosting stops early by a tenth of them.
AUTO_STOPPING, FEW_KNOWN = 10_000, 10


@dataclass(frozen=True)
class Problem:
    """The targets of one model: class numbers (N,) from 0, or values (N,) if `classes` is 0."""

    y: np.ndarray
    classes: int = 0
    level: float | None = None
    """A quantile of the values, instead of their mean."""


@dataclass(frozen=True)
class Outputs:
    """How the outputs of single models make a prediction; JSON through `to_dict`."""

    kind: Literal["classes", "labels", "values"]
    shape: tuple[int, ...]
    """Of the prediction of one row."""
    present: tuple[tuple[int, ...], ...] = ()
    """The classes with training rows, for each label or for the only target."""
    levels: Levels = None

    @classmethod
    def of(cls, competition: Competition, y: np.ndarray, levels: Levels = None) -> "Outputs":
        """Describe the prediction for targets (N,) or (N, targets)."""
        if competition.task in (*VALUE_TASKS, "ordinal"):
            if competition.task == "ordinal" or levels is None:
                return cls("values", y.shape[1:])
            return cls("values", (y.reshape(len(y), -1).shape[1], 3), (), levels)
        kind = "labels" if competition.task == "multilabel" else "classes"
        present = tuple(tuple(np.unique(each).tolist()) for each in y.reshape(len(y), -1).T)
        return cls(kind, (len(competition.classes),), present)

    def problems(self, y: np.ndarray, stacked: bool = False) -> list[Problem]:
        """Return what single models are fitted to; none for a target of one class only.

        `stacked` takes the targets as the rows of one problem, as of `step_rows`.
        """
        if self.kind != "values":
            columns = y.reshape(len(y), -1).T
            return [
                Problem(np.searchsorted(found, column), len(found))
                for column, found in zip(columns, self.present, strict=True)
                if len(found) > 1
            ]
        values = y.astype(np.float64)
        columns = [values.ravel()] if stacked else values.reshape(len(y), -1).T
        wanted = (None, *self.levels) if self.levels else (None,)
        return [Problem(column, 0, level) for column in columns for level in wanted]

    def join(self, found: list[np.ndarray], rows: int) -> np.ndarray:
        """Combine probabilities (rows, classes) or values of each problem to a prediction."""
        if self.kind == "values":
            values = np.stack([each.reshape(rows, -1) for each in found], -1)
            if self.levels:
                return _in_order(values.reshape(rows, -1, 3)).reshape(rows, *self.shape)
            return values.reshape(rows, *self.shape)
        remaining = iter(found)
        spread = []
        for present in self.present:
            wide = np.zeros((rows, max(2, *self.shape)))
            wide[:, list(present)] = next(remaining) if len(present) > 1 else 1.0
            spread.append(wide)
        return np.stack([each[:, 1] for each in spread], 1) if self.kind == "labels" else spread[0]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Outputs":
        """Rebuild from `to_dict`, also after JSON."""
        levels = values["levels"]
        present = tuple(tuple(each) for each in values["present"])
        return cls(
            values["kind"], tuple(values["shape"]), present, tuple(levels) if levels else None
        )


def _in_order(bounds: np.ndarray) -> np.ndarray:
    """Return (.., 3) value, lower, upper with the value inside; models of quantiles may cross."""
    value, lower, upper = np.moveaxis(bounds, -1, 0)
    return np.stack([value, np.minimum(lower, value), np.maximum(upper, value)], -1)


def error_shifts(errors: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    """Return (targets, 3): 0, and the quantiles of truth minus prediction on unseen rows."""
    bounds = np.quantile(errors.reshape(len(errors), -1), levels, axis=0)
    return np.concatenate([np.zeros((1, bounds.shape[1])), bounds]).T


def interval(values: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return (N, targets, 3): values (N,) or (N, targets), and their bounds by `error_shifts`."""
    return _in_order(values.reshape(len(values), -1, 1) + shifts)


def without_unknown(matrix: np.ndarray) -> np.ndarray:
    """Return a matrix (N, F) with 0 in the columns that scikit-learn's boosting cannot bin.

    It refuses a column without any known value. With more than 10,000 rows its defaults hold a
    tenth of them out, which may be all that know a value of a column with very few.
    """
    least = FEW_KNOWN if len(matrix) > AUTO_STOPPING else 1
    unknown = np.isfinite(matrix).sum(0) < least
    return np.where(unknown, 0.0, matrix) if unknown.any() else matrix


def tree_matrix(columns: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers, components and category codes (N, F), and which columns are codes (F,).

    Of a forecast, one row per step, with the number of the step and its seasonal naive forecast in
    front: one model per step would take as many times. Raises `ValueError` without any column.
    """
    parts = [columns.numbers, columns.components, columns.categories]
    matrix = np.concatenate(parts, 1, dtype=np.float64)
    categorical = np.arange(matrix.shape[1]) >= matrix.shape[1] - columns.categories.shape[1]
    if columns.naive is not None:
        rows, horizon = columns.naive.shape
        steps = np.tile(np.arange(1.0, horizon + 1), rows)
        matrix = np.repeat(matrix, horizon, axis=0)
        matrix = np.column_stack([steps, columns.naive.ravel(), matrix])
        categorical = np.append([False, False], categorical)
    if not matrix.shape[1]:
        raise ValueError(f"{name} has no column to learn from; leave it out of --members")
    return matrix, categorical
