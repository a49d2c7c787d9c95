"""scikit-learn's HistGradientBoosting on numbers, native categories and components of words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.options import NO_OPTIONS, Option, positive, share
from mlx_kaggle.members.outputs import (
    AUTO_STOPPING,
    Levels,
    Outputs,
    Problem,
    tree_matrix,
    without_unknown,
)
from mlx_kaggle.members.saved import load_estimators, load_json, save_estimators, save_json
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence, split_inside
from mlx_trainer.settings import Range

# Tables with fewer rows have smaller trees.
SMALL = 3_000
# Fewer rows are too short a work to share: on adult (8,000) one thread took 0.9 s and two 2.0 s.
SHARED = 20_000
# The share of the rows that scikit-learn holds out to stop early.
HELD_OUT = 0.1
OPTIONS = {
    "learning_rate": positive(0.01, 0.2),
    "max_iter": positive(50, 1000),
    "max_leaf_nodes": Option(4, 32, True, Range(at_least=2)),
    "max_depth": positive(2, 12, log=False),
    "max_features": share(0.1, 1.0),
    "min_samples_leaf": positive(2, 50),
    "l2_regularization": Option(0.01, 30.0, True, Range(at_least=0)),
}


@dataclass(frozen=True)
class GradientTrees:
    """One boosting for each problem of `outputs`."""

    outputs: Outputs
    models: tuple[HistGradientBoostingClassifier | HistGradientBoostingRegressor, ...]


def supports(competition: Competition, levels: Levels = None) -> bool:
    """Every task, and intervals."""
    return True


def fit(
    competition: Competition,
    columns: Columns,
    y: np.ndarray,
    seed: int,
    levels: Levels = None,
    threads: int = 2,
    plain: bool = False,
    options: Mapping[str, Any] = NO_OPTIONS,
    copies: Columns | None = None,
) -> GradientTrees:
    """Fit one model for each target and level; an ordinal task is a regression on class numbers.

    `plain` takes the defaults of scikit-learn, the baseline of every report; `options` replace
    settings; `copies` are changed copies of the rows, with the same targets. Its rows to stop early
    on are chosen here if folds are by group or time. Raises `ValueError` without any column.
    """
    settings = {} if plain else {**_settings(len(y)), **options}
    if copies is not None:
        columns, y = columns.append(copies), np.concatenate([y, y])
    matrix, categorical = tree_matrix(columns, "trees")
    matrix = without_unknown(matrix)
    outputs = Outputs.of(competition, y, levels)
    problems = outputs.problems(y, stacked=columns.naive is not None)
    threads = threads if len(matrix) >= SHARED else 1
    with threadpool_limits(threads, user_api="openmp"):
        how = seed, settings, columns.dependence
        models = [_fit(matrix, categorical, problem, *how) for problem in problems]
    return GradientTrees(outputs, tuple(models))


def predict(model: GradientTrees, columns: Columns) -> np.ndarray:
    """Return the prediction of each row, as of `Target`."""
    matrix, _ = tree_matrix(columns, "trees")
    found = [
        each.predict_proba(matrix)
        if isinstance(each, HistGradientBoostingClassifier)
        else each.predict(matrix)
        for each in model.models
    ]
    return model.outputs.join(found, len(columns))


def save(model: GradientTrees, folder: Path) -> None:
    """Write outputs.json and trees.skops."""
    save_json(folder / "outputs.json", model.outputs.to_dict())
    save_estimators(folder / "trees.skops", model.models)


def load(folder: Path) -> GradientTrees:
    """Read what `save` wrote."""
    outputs = Outputs.from_dict(load_json(folder / "outputs.json"))
    return GradientTrees(outputs, load_estimators(folder / "trees.skops"))


def _fit(
    matrix: np.ndarray,
    categorical: np.ndarray,
    problem: Problem,
    seed: int,
    settings: Mapping[str, Any],
    dependence: Dependence | None,
) -> Any:
    # scikit-learn's annotation says str, its documentation array-like of bool.
    options: dict[str, Any] = {"categorical_features": categorical, "random_state": seed}
    options |= settings
    if problem.classes:
        if (np.bincount(problem.y) == 1).any():  # would split the only row of a class
            options["early_stopping"] = False
    elif problem.level is not None:
        options |= {"loss": "quantile", "quantile": problem.level}
    kind = HistGradientBoostingClassifier if problem.classes else HistGradientBoostingRegressor
    if not dependence or "early_stopping" in options or len(matrix) <= AUTO_STOPPING:
        return kind(**options).fit(matrix, problem.y)
    task = "multiclass" if problem.classes else "regression"
    ((kept, held),) = split_inside(dependence, problem.y, task, 0, HELD_OUT, seed)
    watched = {"X_val": matrix[held], "y_val": problem.y[held]}
    options["early_stopping"] = True
    return kind(**options).fit(without_unknown(matrix[kept]), problem.y[kept], **watched)


def _settings(rows: int) -> dict[str, Any]:
    """Return settings by the number of training rows, measured out of fold in 5 folds.

    scikit-learn's defaults and these: titanic 0.796 and 0.816 accuracy, house-prices
    0.1325 and 0.1281, adult 0.8636 and 0.8674 accuracy, diamonds 582 and 568.
    """
    if rows < SMALL:
        return {
            "learning_rate": 0.03,
            "max_iter": 500,
            "max_leaf_nodes": 8,
            "max_features": 0.3,
            "min_samples_leaf": 10,
            "l2_regularization": 3.0,
            "early_stopping": False,
        }
    return {
        "learning_rate": 0.05,
        "max_iter": 300,
        "max_leaf_nodes": 15,
        "max_features": 0.5,
        "l2_regularization": 1.0,
        "early_stopping": False,
    }
