"""Support vector regression with a radial kernel: smooth where trees are steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import KFold
from sklearn.svm import SVR

from mlx_kaggle.members.columns import Columns, smooth_clip
from mlx_kaggle.members.options import NO_OPTIONS, Option, positive
from mlx_kaggle.members.outputs import Levels, Outputs
from mlx_kaggle.members.saved import load_estimators, load_json, save_estimators, save_json
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence
from mlx_trainer.settings import Range

# Of the scaled target; smaller errors cost nothing.
EPSILON = 0.05
# Multiples of 1 / the total variance of the columns, and penalties; chosen by cross-validation.
GAMMAS, PENALTIES = (0.1, 0.3, 1.0), (2.0, 10.0)
FOLDS, ROWS = 3, 2000
# `gamma` and `penalty` are the only ones that are tried.
OPTIONS = {
    "gamma": positive(0.03, 3.0),
    "penalty": positive(0.5, 50.0),
    "epsilon": Option(0.005, 0.3, True, Range(at_least=0)),
}


@dataclass(frozen=True)
class Kernel:
    """One regression for each target."""

    outputs: Outputs
    models: tuple[SVR, ...]


def supports(competition: Competition, levels: Levels = None) -> bool:
    """Values and ordered classes, without intervals."""
    return levels is None and competition.task in ("regression", "ordinal")


def fit(
    competition: Competition,
    columns: Columns,
    y: np.ndarray,
    seed: int,
    levels: Levels = None,
    threads: int = 2,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> Kernel:
    """Fit to all rows, with the width and penalty of the least held-out absolute error: a few
    outliers would decide a sum of squares."""
    matrix, outputs = _matrix(columns), Outputs.of(competition, y)
    scale = 1 / max(float(matrix.var(0).sum()), 1e-12)
    models = []
    for problem in outputs.problems(y):
        settings = _choose(matrix, problem.y, scale, seed, options, columns.dependence)
        models.append(SVR(**settings).fit(matrix, problem.y))
    return Kernel(outputs, tuple(models))


def predict(model: Kernel, columns: Columns) -> np.ndarray:
    """Return the values of each row."""
    matrix = _matrix(columns)
    return model.outputs.join([each.predict(matrix) for each in model.models], len(columns))


def save(model: Kernel, folder: Path) -> None:
    """Write outputs.json and kernel.skops."""
    save_json(folder / "outputs.json", model.outputs.to_dict())
    save_estimators(folder / "kernel.skops", model.models)


def load(folder: Path) -> Kernel:
    """Read what `save` wrote."""
    outputs = Outputs.from_dict(load_json(folder / "outputs.json"))
    return Kernel(outputs, load_estimators(folder / "kernel.skops"))


def _choose(
    matrix: np.ndarray,
    y: np.ndarray,
    scale: float,
    seed: int,
    options: Mapping[str, Any],
    dependence: Dependence | None,
) -> dict[str, Any]:
    gammas = (options["gamma"],) if "gamma" in options else GAMMAS
    penalties = (options["penalty"],) if "penalty" in options else PENALTIES
    fixed: dict[str, Any] = {"epsilon": options.get("epsilon", EPSILON)}
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(y))[:ROWS]
    if len(rows) < 2 * FOLDS:
        return {"gamma": gammas[len(gammas) // 2] * scale, "C": penalties[-1], **fixed}
    splits = dependence[rows].splits(y[rows], "regression", FOLDS, 0.0, seed) if dependence else []
    splits = splits or list(KFold(FOLDS).split(rows))
    errors = {}
    for gamma, penalty in product(gammas, penalties):
        total = 0.0
        for kept, held in splits:
            settings: dict[str, Any] = {"gamma": gamma * scale, "C": penalty, **fixed}
            model = SVR(**settings)
            model.fit(matrix[rows[kept]], y[rows[kept]])
            total += np.abs(model.predict(matrix[rows[held]]) - y[rows[held]]).sum()
        errors[gamma, penalty] = total
    gamma, penalty = min(errors, key=lambda each: errors[each])
    return {"gamma": gamma * scale, "C": penalty, **fixed}


def _matrix(columns: Columns) -> np.ndarray:
    # RMSE of the logarithm of house-prices 0.1229 as they are, 0.1213 clipped: two huge houses.
    parts = [smooth_clip(columns.scaled), columns.components]
    return np.concatenate(parts, 1, dtype=np.float64)
