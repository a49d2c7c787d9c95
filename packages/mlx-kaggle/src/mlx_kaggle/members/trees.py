"""Gradient boosting on the numeric and categorical columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mlx_kaggle.members.features import numbers_of
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.tables.windows import seasonal_naive
from mlx_tabtext import Table, is_missing

# HistGradientBoosting takes category codes below 255; rarer categories become missing.
MAX_CATEGORIES = 250
ITERATIONS = 100


def predict_trees(
    competition: Competition,
    train: Table,
    val: Table,
    y: np.ndarray,
    seed: int,
    iterations: int = ITERATIONS,
) -> np.ndarray | None:
    """Fit on `train`, and predict probabilities (N, classes) or values (N,) for `val`.

    `None` if all columns are text.
    """
    if competition.forecast:
        return _predict_steps(competition, train, val, y, seed, iterations)
    if all(column.kind == "text" for column in competition.schema.features):
        return None
    x_train, x_val, categorical = _matrices(competition, train, val)
    # scikit-learn's annotation says str, its documentation array-like of bool.
    options: dict[str, Any] = {"categorical_features": categorical, "random_state": seed}
    options["max_iter"] = iterations
    if competition.task == "regression":
        return HistGradientBoostingRegressor(**options).fit(x_train, y).predict(x_val)
    counts = np.bincount(y)
    if (counts > 0).sum() == 1:
        return Target(competition).constant(y, len(x_val))
    if (counts == 1).any():  # early stopping would split the only row of a class
        options["early_stopping"] = False
    trees = HistGradientBoostingClassifier(**options).fit(x_train, y)
    probabilities = np.zeros((len(x_val), len(competition.classes)))  # 0 for absent classes
    probabilities[:, trees.classes_] = trees.predict_proba(x_val)
    return probabilities


def _predict_steps(
    competition: Competition, train: Table, val: Table, y: np.ndarray, seed: int, iterations: int
) -> np.ndarray:
    """Predict all steps (N, steps) of a forecast with one model.

    A row per step, with the number of the step and the seasonal naive forecast as columns: as many
    models as steps would take as many times as long.
    """
    forecast = competition.forecast
    assert forecast is not None
    horizon, (x_train, x_val, categorical) = forecast.horizon, _matrices(competition, train, val)

    def per_step(matrix: np.ndarray, table: Table) -> np.ndarray:
        steps = np.tile(np.arange(1.0, horizon + 1), len(matrix))
        naive = seasonal_naive(table, forecast).ravel()
        return np.column_stack([steps, naive, np.repeat(matrix, horizon, axis=0)])

    # scikit-learn's annotation says str, its documentation array-like of bool.
    options: dict[str, Any] = {"categorical_features": np.append([False, False], categorical)}
    trees = HistGradientBoostingRegressor(**options, random_state=seed, max_iter=iterations)
    trees.fit(per_step(x_train, train), y.ravel())
    return trees.predict(per_step(x_val, val)).reshape(len(x_val), *y.shape[1:])


def _matrices(
    competition: Competition, train: Table, val: Table
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return raw numbers and category codes; NaN if missing, or not seen in training."""
    columns = []
    for number in numbers_of(competition.schema):
        columns.append([number.values(train), number.values(val)])
    numeric = len(columns)
    for column in competition.schema.features:
        if column.kind == "categorical":
            codes = _category_codes(train[column.name])
            columns.append([_encode(table[column.name], codes) for table in (train, val)])
    x_train, x_val = (np.stack(each, 1) for each in zip(*columns, strict=True))
    return x_train, x_val, np.arange(len(columns)) >= numeric


def _category_codes(cells: Sequence) -> dict[str, int]:
    names, counts = np.unique([str(c) for c in cells if not is_missing(c)], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][:MAX_CATEGORIES]
    return {str(name): code for code, name in enumerate(frequent)}


def _encode(cells: Sequence, codes: dict[str, int]) -> np.ndarray:
    return np.array([codes.get(str(cell), np.nan) for cell in cells], np.float64)
