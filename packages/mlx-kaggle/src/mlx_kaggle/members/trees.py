"""Gradient boosting on numeric and categorical columns, and on a projection of the words."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mlx_kaggle.members.features import WordFeatures, numbers_of
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition, Forecast
from mlx_kaggle.tables.windows import seasonal_naive
from mlx_tabtext import Table, is_missing

# HistGradientBoosting takes category codes below 255; rarer categories become missing.
MAX_CATEGORIES = 250
ITERATIONS = 100
# Components of the tf-idf of text columns (latent semantic analysis).
COMPONENTS = 50


def predict_trees(
    competition: Competition,
    train: Table,
    val: Table,
    y: np.ndarray,
    seed: int,
    iterations: int = ITERATIONS,
    levels: tuple[float, float] | None = None,
) -> np.ndarray | None:
    """Fit on `train`, and predict `val`; `None` without any column to learn from.

    Probabilities (N, classes) or (N, labels); values (N,) or (N, targets); for an ordinal task the
    class number of a regression (N,). With `levels`, quantiles of intervals, values become
    (N, targets, 3): value, lower and upper bound.
    """
    x_train, x_val, categorical = _matrices(competition, train, val, seed)
    if not x_train.shape[1]:
        return None
    shape = y.shape[1:]
    if competition.forecast:  # one model with a row per step; one per step would take as many times
        x_train = _per_step(x_train, train, competition.forecast)
        x_val = _per_step(x_val, val, competition.forecast)
        categorical, y = np.append([False, False], categorical), y.ravel()
    # scikit-learn's annotation says str, its documentation array-like of bool.
    options: dict[str, Any] = {"categorical_features": categorical, "random_state": seed}
    options["max_iter"] = iterations

    def regress(values: np.ndarray, level: float | None = None) -> np.ndarray:
        loss = {"loss": "quantile", "quantile": level} if level else {}
        return HistGradientBoostingRegressor(**options, **loss).fit(x_train, values).predict(x_val)

    if competition.task == "multilabel":
        labels = [_classify(x_train, label, x_val, 2, options)[:, 1] for label in y.T]
        return np.stack(labels, 1)
    if competition.task in VALUE_TASKS:
        found = _values(y, regress, levels)
        return found.reshape(-1, *shape, *found.shape[2:]) if competition.forecast else found
    if competition.task == "ordinal":
        return regress(y.astype(np.float64))
    return _classify(x_train, y, x_val, len(competition.classes), options)


def _values(
    y: np.ndarray,
    regress: Callable[..., np.ndarray],
    levels: tuple[float, float] | None,
) -> np.ndarray:
    columns = y.reshape(len(y), -1).T
    if levels is None:
        values = np.stack([regress(column) for column in columns], 1)
        return values if y.ndim == 2 else values[:, 0]
    found = []
    for column in columns:
        value, lower, upper = (regress(column, level) for level in (None, *levels))
        # Independent models may cross.
        found.append(np.stack([value, np.minimum(lower, value), np.maximum(upper, value)], 1))
    return np.stack(found, 1)


def _classify(
    x_train: np.ndarray, y: np.ndarray, x_val: np.ndarray, classes: int, options: dict[str, Any]
) -> np.ndarray:
    """Return probabilities (N, classes), 0 for a class without rows."""
    probabilities = np.zeros((len(x_val), classes))
    counts = np.bincount(y)
    if (counts > 0).sum() == 1:
        probabilities[:, y[0]] = 1
        return probabilities
    if (counts == 1).any():  # early stopping would split the only row of a class
        options = {**options, "early_stopping": False}
    trees = HistGradientBoostingClassifier(**options).fit(x_train, y)
    probabilities[:, trees.classes_] = trees.predict_proba(x_val)
    return probabilities


def _per_step(matrix: np.ndarray, table: Table, forecast: Forecast) -> np.ndarray:
    """Return (N * horizon, 2 + columns): the number of the step and its seasonal naive forecast."""
    steps = np.tile(np.arange(1.0, forecast.horizon + 1), len(matrix))
    naive = seasonal_naive(table, forecast).ravel()
    return np.column_stack([steps, naive, np.repeat(matrix, forecast.horizon, axis=0)])


def _matrices(
    competition: Competition, train: Table, val: Table, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return raw numbers, components of words, and category codes; NaN if missing or unseen."""
    numbers = [
        [number.values(table) for table in (train, val)]
        for number in numbers_of(competition.schema)
    ]
    categories = []
    for column in competition.schema.features:
        if column.kind == "categorical":
            codes = _category_codes(train[column.name])
            categories.append([_encode(table[column.name], codes) for table in (train, val)])
    words = _components(competition, train, val, seed)
    columns = [*numbers, *words, *categories]
    rows = [len(next(iter(table.values()))) for table in (train, val)]
    x_train, x_val = (
        np.stack([column[side] for column in columns], 1) if columns else np.zeros((rows[side], 0))
        for side in (0, 1)
    )
    return x_train, x_val, np.arange(len(columns)) >= len(numbers) + len(words)


def _components(
    competition: Competition, train: Table, val: Table, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training and validation values of each component of the text columns."""
    words = WordFeatures.fit(competition.schema, train)
    components = min(COMPONENTS, len(words.words) - 1)
    if components < 2:
        return []
    svd = TruncatedSVD(components, random_state=seed)
    fitted, found = svd.fit_transform(words.transform(train)), svd.transform(words.transform(val))
    return list(zip(fitted.T, found.T, strict=True))


def _category_codes(cells: Sequence) -> dict[str, int]:
    names, counts = np.unique([str(c) for c in cells if not is_missing(c)], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][:MAX_CATEGORIES]
    return {str(name): code for code, name in enumerate(frequent)}


def _encode(cells: Sequence, codes: dict[str, int]) -> np.ndarray:
    return np.array([codes.get(str(cell), np.nan) for cell in cells], np.float64)
