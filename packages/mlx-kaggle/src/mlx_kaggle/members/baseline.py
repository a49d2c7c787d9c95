"""What simple models reach on the same folds, so that nobody is fooled by a score alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mlx_kaggle.members.linear import fit_linear
from mlx_kaggle.tables.competition import Competition, row_count
from mlx_kaggle.tables.features import numbers_of
from mlx_kaggle.tables.folds import Split
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.tables.task import take
from mlx_tabtext import Table, is_missing

# HistGradientBoosting takes categories as codes below this; rarer ones share the last code.
MAX_CATEGORIES = 250
ITERATIONS = 100


def baseline_predictions(
    competition: Competition,
    table: Table,
    encoded: np.ndarray,
    splits: Sequence[Split],
    seed: int,
    iterations: int = ITERATIONS,
) -> dict[str, list[np.ndarray]]:
    """Predictions of each baseline for the validation rows of each split.

    "majority" (or "mean"), "HistGradientBoosting" on numeric and categorical columns, and "linear
    model" on these and the words of text columns: the one our own models start from. `iterations`
    are those of the gradient boosting.
    """
    target = Target(competition)
    constant = "mean" if competition.task == "regression" else "majority"
    found: dict[str, list[np.ndarray]] = {}
    for train_rows, val_rows in splits:
        train, val = take(table, train_rows), take(table, val_rows)
        scaler = (
            target.fit_scaler(encoded[train_rows]) if competition.task == "regression" else None
        )
        y = encoded[train_rows] if scaler is None else scaler.transform(encoded[train_rows])

        def keep(name: str, raw: np.ndarray, scaler=scaler) -> None:
            prediction = raw if scaler is None else scaler.inverse(raw)
            found.setdefault(name, []).append(np.asarray(prediction, np.float64))

        keep(constant, _constant(competition, y, len(val_rows)))
        if _has_trees_input(competition):
            keep("HistGradientBoosting", _trees(competition, train, val, y, seed, iterations))
        keep("linear model", _linear(competition, train, val, y, seed))
    return found


def _constant(competition: Competition, y: np.ndarray, rows: int) -> np.ndarray:
    if competition.task == "regression":
        return np.full(rows, y.mean())
    shares = np.bincount(y, minlength=len(competition.classes)) / len(y)
    return np.tile(shares, (rows, 1))


def _trees(
    competition: Competition,
    train: Table,
    val: Table,
    y: np.ndarray,
    seed: int,
    iterations: int,
) -> np.ndarray:
    x_train, x_val, categorical = _matrices(competition, train, val)
    # scikit-learn's annotation says str, its documentation array-like of bool.
    options: dict[str, Any] = {"categorical_features": categorical, "random_state": seed}
    options["max_iter"] = iterations
    if competition.task == "regression":
        return HistGradientBoostingRegressor(**options).fit(x_train, y).predict(x_val)
    counts = np.bincount(y)
    if (counts > 0).sum() == 1:
        return _constant(competition, y, len(x_val))
    if (counts == 1).any():  # its early stopping, of many rows, would divide that class
        options["early_stopping"] = False
    trees = HistGradientBoostingClassifier(**options)
    return _all_classes(competition, trees.fit(x_train, y), trees.predict_proba(x_val))


def _linear(
    competition: Competition, train: Table, val: Table, y: np.ndarray, seed: int
) -> np.ndarray:
    model, _ = fit_linear(competition, train, y, numeric_features=True, words=True, seed=seed)
    if model is None:
        return _constant(competition, y, row_count(val))
    outputs = model.outputs(val)
    if competition.task == "regression":
        return outputs
    two = outputs.ndim == 1
    return softmax(np.stack([np.zeros_like(outputs), outputs], 1) if two else outputs, axis=1)


def _matrices(
    competition: Competition, train: Table, val: Table
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw numbers and category codes; NaN where missing, or not seen in training."""
    columns = []
    for number in numbers_of(competition.schema):
        columns.append([number.values(train), number.values(val)])
    numeric = len(columns)
    for column in competition.schema.features:
        if column.kind == "categorical":
            codes = _category_codes(train[column.name])
            columns.append([_coded(table[column.name], codes) for table in (train, val)])
    x_train, x_val = (np.stack(each, 1) for each in zip(*columns, strict=True))
    return x_train, x_val, np.arange(len(columns)) >= numeric


def _category_codes(cells: Sequence) -> dict[str, int]:
    names, counts = np.unique([str(c) for c in cells if not is_missing(c)], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][:MAX_CATEGORIES]
    return {str(name): code for code, name in enumerate(frequent)}


def _coded(cells: Sequence, codes: dict[str, int]) -> np.ndarray:
    return np.array([codes.get(str(cell), np.nan) for cell in cells], np.float64)


def _all_classes(competition: Competition, model, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities with a column for every class, also one absent from this fold's training."""
    full = np.zeros((len(probabilities), len(competition.classes)))
    full[:, model.classes_] = probabilities
    return full


def _has_trees_input(competition: Competition) -> bool:
    kinds = {column.kind for column in competition.schema.features}
    return bool(kinds - {"text"})
