"""Ridge or logistic regression on words, characters, standardized numbers and categories."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from mlx_kaggle.members.columns import Columns, smooth_clip
from mlx_kaggle.members.options import NO_OPTIONS, positive
from mlx_kaggle.members.outputs import Levels, Outputs, Problem, error_shifts, interval
from mlx_kaggle.members.saved import load_arrays, load_json, save_arrays, save_json
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence

# L2 penalties; the one with the least held-out squared error, or log loss.
RIDGE_ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
LOGISTIC_ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0)
# `alpha` is the only penalty that is tried.
OPTIONS = {"alpha": positive(0.03, 300.0)}
# A row far outside of the others is rare, and its prediction then has a huge error: clipped numbers
# may cost the other rows this share of the squared error. RMSE of the logarithm of house-prices
# 0.1278 and clipped 0.1248; diamonds, whose prices the line follows far out, 1193 and 1307.
CLIP_COST = 0.1
# Folds of the choice; of many rows one fold in `FOLDS` is held out.
FOLDS, MANY_ROWS = 5, 5_000


@dataclass(frozen=True)
class LinearWords:
    """Weights (features, outputs) and biases (outputs,) of each problem, side by side."""

    outputs: Outputs
    weight: np.ndarray
    bias: np.ndarray
    shifts: np.ndarray
    """(targets, 3) of value, lower and upper bound; without rows if there are no intervals."""
    clipped: bool = False
    """Whether numbers are clipped smoothly, of a regression."""


def supports(competition: Competition, levels: Levels = None) -> bool:
    """Every task, and intervals: by the quantiles of held-out errors."""
    return True


# L-BFGS gives systems of a few numbers to all threads, which wait longer than they compute.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit(
    competition: Competition,
    columns: Columns,
    y: np.ndarray,
    seed: int,
    levels: Levels = None,
    threads: int = 2,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> LinearWords:
    """Fit one model for each label, or one for all targets or steps with a common penalty.

    An ordinal task is a regression on class numbers. A regression clips numbers smoothly, unless
    this costs held-out rows more than `CLIP_COST`. Raises `ValueError` without any column.
    """
    matrix = _matrix(columns)
    outputs = Outputs.of(competition, y, levels)
    alphas = RIDGE_ALPHAS if outputs.kind == "values" else LOGISTIC_ALPHAS
    alphas = (options["alpha"],) if "alpha" in options else alphas
    if outputs.kind == "values":
        values = y.astype(np.float64)
        splits = _splits(Problem(values), seed, columns.dependence, columns.naive is not None)
        ridge, errors = _fit_values(matrix, values, splits, alphas)
        found = _fit_values(_matrix(columns, clipped=True), values, splits, alphas)
        limit = (1 + CLIP_COST) * np.square(errors).mean()
        clipped = bool(columns.scaled.shape[1] and np.square(found[1]).mean() < limit)
        ridge, errors = found if clipped else (ridge, errors)
        weight, bias = np.atleast_2d(ridge.coef_).T, np.atleast_1d(ridge.intercept_)
        shifts = error_shifts(errors, levels) if levels else np.zeros((0, 3))
        return LinearWords(outputs, weight, bias, shifts, clipped)
    how = seed, alphas, columns.dependence
    fitted = [_fit_classes(matrix, problem, *how) for problem in outputs.problems(y)]
    nothing = np.zeros((matrix.shape[1], 0)), np.zeros(0)  # pyright: ignore[reportOptionalSubscript]
    weight, bias = (np.concatenate(each, -1) for each in zip(nothing, *fitted, strict=True))
    return LinearWords(outputs, weight, bias, np.zeros((0, 3)))


def predict(model: LinearWords, columns: Columns) -> np.ndarray:
    """Return the prediction of each row, as of `Target`."""
    found = _matrix(columns, model.clipped) @ model.weight + model.bias
    outputs = model.outputs
    if outputs.kind == "values":
        values = found.reshape(len(columns), -1)
        if outputs.levels:
            return interval(values, model.shifts)
        return values.reshape(len(columns), *outputs.shape)
    sizes = [1 if len(each) == 2 else len(each) for each in outputs.present if len(each) > 1]
    logits = np.split(found, np.cumsum(sizes)[:-1], axis=1) if sizes else []
    return outputs.join([_probabilities(each) for each in logits], len(columns))


def save(model: LinearWords, folder: Path) -> None:
    """Write outputs.json and linear.npz."""
    save_json(folder / "outputs.json", {**model.outputs.to_dict(), "clipped": model.clipped})
    arrays = {"weight": model.weight, "bias": model.bias, "shifts": model.shifts}
    save_arrays(folder / "linear.npz", arrays)


def load(folder: Path) -> LinearWords:
    """Read what `save` wrote."""
    values = load_json(folder / "outputs.json")
    arrays = load_arrays(folder / "linear.npz")
    return LinearWords(Outputs.from_dict(values), **arrays, clipped=values["clipped"])


def _matrix(columns: Columns, clipped: bool = False) -> csr_array:
    """Return (N, F) float64. Sparse also for numbers: its products do not depend on other rows."""
    scaled = smooth_clip(columns.scaled) if clipped else columns.scaled
    parts = [csr_array(scaled), columns.words, columns.characters]
    matrix = csr_array(hstack(parts, dtype=np.float64))
    if not matrix.shape[1]:  # pyright: ignore[reportOptionalSubscript]
        raise ValueError("linear has no column to learn from; leave it out of --members")
    return matrix


def _splits(
    problem: Problem, seed: int, dependence: Dependence | None, in_time: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return folds; of a forecast blocks of rows, as windows overlap."""
    rows = len(problem.y)
    if dependence:
        task = "multiclass" if problem.classes else "regression"
        folds = FOLDS if rows < MANY_ROWS or not problem.classes else 0
        if splits := dependence.splits(problem.y, task, folds, 1 / FOLDS, seed):
            return splits
    if problem.classes:
        folds = min(FOLDS, int(np.bincount(problem.y).min()))
        if folds < 2:
            return []
        splits = list(
            StratifiedKFold(folds, shuffle=True, random_state=seed).split(problem.y, problem.y)
        )
        return splits if rows < MANY_ROWS else splits[:1]
    if rows < 2:
        return []
    chosen = {} if in_time else {"shuffle": True, "random_state": seed}
    return list(KFold(min(FOLDS, rows), **chosen).split(problem.y))


def _fit_values(
    matrix: csr_array,
    y: np.ndarray,
    splits: list[tuple[np.ndarray, np.ndarray]],
    alphas: Sequence[float],
) -> tuple[Ridge, np.ndarray]:
    """Return the ridge of the best penalty, and its errors on the rows that some fold holds out."""
    # Exact and quick for few columns; words have many, and are mostly zeros.
    dense = matrix.shape[1] <= 2_000  # pyright: ignore[reportOptionalSubscript]
    x = matrix.toarray() if dense else matrix
    scored = np.sort(np.concatenate([held for _, held in splits])) if splits else slice(None)
    tried = []
    for alpha in alphas:
        errors = y - y.mean(0)
        for rows, held in splits:
            fitted = Ridge(alpha=alpha).fit(x[rows], y[rows])
            errors[held] = y[held] - fitted.predict(x[held])
        tried.append(errors[scored])
    best = int(np.argmin([np.square(errors).mean() for errors in tried]))
    return Ridge(alpha=alphas[best]).fit(x, y), tried[best]


def _fit_classes(
    matrix: csr_array,
    problem: Problem,
    seed: int,
    alphas: Sequence[float],
    dependence: Dependence | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of one logit of two classes, or of a logit each."""
    splits = _splits(problem, seed, dependence) if len(alphas) > 1 else []
    losses = np.zeros(len(alphas))
    for rows, held in splits:
        for at, alpha in enumerate(alphas):
            weight, bias = _logistic(matrix[rows], problem.y[rows], alpha)
            found = _probabilities(matrix[held] @ weight + bias)
            losses[at] -= np.log(found[np.arange(len(held)), problem.y[held]] + 1e-12).sum()
    best = alphas[int(np.argmin(losses))] if splits or len(alphas) == 1 else 1.0
    return _logistic(matrix, problem.y, best)


def _logistic(matrix: csr_array, y: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the loss hardly changes any more
        fitted = LogisticRegression(C=1 / alpha, max_iter=200).fit(matrix, y)
    return fitted.coef_.T, fitted.intercept_


def _probabilities(logits: np.ndarray) -> np.ndarray:
    if logits.shape[1] == 1:
        return np.concatenate([expit(-logits), expit(logits)], 1)
    return softmax(logits, axis=1)
