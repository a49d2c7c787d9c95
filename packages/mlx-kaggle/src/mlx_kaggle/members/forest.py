"""Extremely randomized trees on numbers, category codes and components of words."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.options import NO_OPTIONS, positive, share
from mlx_kaggle.members.outputs import Levels, Outputs, error_shifts, interval, tree_matrix
from mlx_kaggle.members.saved import (
    load_arrays,
    load_estimators,
    load_json,
    save_arrays,
    save_estimators,
    save_json,
)
from mlx_kaggle.tables.competition import Competition

# Out of fold: titanic 0.809 accuracy, house-prices 0.142 (leaves of 2 rows); one-hot categories and
# leaves of 3 rows 0.810 and 0.149 in twice the time, a random forest of 100 trees 0.811 and 0.142.
TREES = 200
# scikit-learn's trees take float32.
MISSING = -1e30
OPTIONS = {
    "n_estimators": positive(50, 500),
    "min_samples_leaf": positive(1, 20),
    "max_features": share(0.1, 1.0),
}


@dataclass(frozen=True)
class Forest:
    """One forest of classes, or one of values for all labels, targets or steps."""

    outputs: Outputs
    models: tuple[ExtraTreesClassifier | ExtraTreesRegressor, ...]
    shifts: np.ndarray
    """(targets, 3) of value, lower and upper bound; without rows if there are no intervals."""


def supports(competition: Competition, levels: Levels = None) -> bool:
    """Every task, and intervals: by the quantiles of the errors on rows a tree has not seen."""
    return True


def fit(
    competition: Competition,
    columns: Columns,
    y: np.ndarray,
    seed: int,
    levels: Levels = None,
    threads: int = 2,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> Forest:
    """Fit extremely randomized trees (Geurts et al. 2006).

    With intervals a tree sees a bootstrap of the rows, and the others measure its errors. An
    ordinal task is a regression on class numbers. Raises `ValueError` without any column.
    """
    matrix = _matrix(columns)
    outputs = Outputs.of(competition, y, levels)
    settings: dict[str, Any] = {
        "n_estimators": TREES,
        "min_samples_leaf": 2,
        "max_features": 0.4,
        "bootstrap": levels is not None,
        "oob_score": levels is not None,
        "n_jobs": threads,
        "random_state": seed,
        **options,
    }
    if outputs.kind != "classes":
        # The mean of labels of 0 and 1 in a leaf is their probability. One forest for all 28 labels
        # of 2,000 comments took 7 s, one for each 45 s; log loss 0.1379 and 0.1410.
        forest = _fit(ExtraTreesRegressor(**settings), matrix, y)
        shifts = np.zeros((0, 3))
        if levels:
            shifts = error_shifts(y - forest.oob_prediction_.reshape(y.shape), levels)
        return Forest(outputs, (forest,), shifts)
    models = [
        _fit(ExtraTreesClassifier(**settings), matrix, each.y) for each in outputs.problems(y)
    ]
    return Forest(outputs, tuple(models), np.zeros((0, 3)))


def predict(model: Forest, columns: Columns) -> np.ndarray:
    """Return the prediction of each row, as of `Target`."""
    matrix, outputs = _matrix(columns), model.outputs
    if model.models and isinstance(model.models[0], ExtraTreesRegressor):
        values = model.models[0].predict(matrix)
        if outputs.levels:
            return interval(values, model.shifts)
        return values.reshape(len(columns), *outputs.shape)
    found: list[Any] = [each.predict_proba(matrix) for each in model.models]  # pyright: ignore[reportAttributeAccessIssue]
    return outputs.join(found, len(columns))


def save(model: Forest, folder: Path) -> None:
    """Write outputs.json, forest.skops and forest.npz."""
    save_json(folder / "outputs.json", model.outputs.to_dict())
    save_estimators(folder / "forest.skops", model.models)
    save_arrays(folder / "forest.npz", {"shifts": model.shifts})


def load(folder: Path) -> Forest:
    """Read what `save` wrote."""
    outputs = Outputs.from_dict(load_json(folder / "outputs.json"))
    models = load_estimators(folder / "forest.skops")
    return Forest(outputs, models, load_arrays(folder / "forest.npz")["shifts"])


def _fit(forest: Any, matrix: np.ndarray, y: np.ndarray) -> Any:
    """Fit in threads, but predict in one: several add the trees in the order that they end in."""
    return forest.fit(matrix, y).set_params(n_jobs=1)


def _matrix(columns: Columns) -> np.ndarray:
    """Return (N, F) numbers, components and category codes; what is missing is below all others."""
    matrix, _ = tree_matrix(replace(columns, naive=None), "forest")
    return np.nan_to_num(matrix, nan=MISSING)
