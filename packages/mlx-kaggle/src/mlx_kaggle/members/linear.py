"""The linear model of a row; the network learns its residual."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from scipy.sparse import csr_array, hstack
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from mlx_kaggle.members.features import HeadFeatures, WordFeatures
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.splits import Split, split_rows
from mlx_tabtext import Table

# L2 penalties. A regression chooses the best one on held-out rows. For classes, log loss would
# choose a larger one than accuracy does (on titanic and nlp-disaster).
RIDGE_ALPHAS = (1.0, 10.0, 100.0)
LOGISTIC_ALPHA = 0.5
# The logit of a class without training rows: about one in a thousand.
ABSENT = -7.0
# Folds of the cross-fitting; two are enough for many rows.
FOLDS, FOLDS_OF_MANY, MANY_ROWS = 5, 2, 20_000


@dataclass(frozen=True)
class LinearModel:
    """Ridge or logistic regression on numbers and categories, and on the words of text columns.

    `weight` is (features + words, outputs), `bias` (outputs,).
    """

    features: HeadFeatures | None
    words: WordFeatures | None
    weight: np.ndarray
    bias: np.ndarray

    def outputs(self, table: Table) -> np.ndarray:
        """Return logits (N,) or (N, classes), or standardized values (N,), float32."""
        return _apply(_matrix(self.features, self.words, table), self.weight, self.bias)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form of the fitted features, without the weights."""
        fitted = {"features": self.features, "words": self.words}
        return {name: each.to_dict() if each else None for name, each in fitted.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], weights: Path) -> "LinearModel | None":
        """Rebuild from `to_dict` and a file of weights; `None` without any feature."""
        features, words = values["features"], values["words"]
        if features is None and words is None:
            return None
        arrays = mx.load(str(weights))
        assert isinstance(arrays, dict)
        return cls(
            HeadFeatures.from_dict(features) if features else None,
            WordFeatures.from_dict(words) if words else None,
            np.array(arrays["weight"]),
            np.array(arrays["bias"]),
        )


def fit_linear(
    competition: Competition,
    train: Table,
    targets: np.ndarray,
    *,
    numeric_features: bool,
    words: bool,
    seed: int,
) -> tuple[LinearModel | None, np.ndarray | None]:
    """Fit on `train`; also return the cross-fitted outputs of its rows.

    A cross-fitted output comes from a model that was not fitted on the row. The fitted model
    overfits its training rows, so the network would train on too small a residual. The output of
    the only row of a class is 0. `targets` are class indices or standardized values (N,). Both
    results are `None` without any feature.
    """
    features = HeadFeatures.fit(competition.schema, train) if numeric_features else None
    features = features if features and features.count else None
    vocabulary = WordFeatures.fit(competition.schema, train) if words else None
    vocabulary = vocabulary if vocabulary and vocabulary.words else None
    if features is None and vocabulary is None:
        return None, None
    regression = competition.task == "regression"
    targets = targets if regression else targets.astype(np.int64)
    classes = 0 if regression else len(competition.classes)
    matrix = _matrix(features, vocabulary, train)
    splits = _splits(competition, targets, seed)
    alphas = RIDGE_ALPHAS if regression else (LOGISTIC_ALPHA,)
    tried = [_held_out(matrix, targets, classes, alpha, splits) for alpha in alphas]
    best = int(np.argmin([np.square(each - targets).mean() for each in tried])) if regression else 0
    weight, bias = _solve(matrix, targets, classes, alphas[best])
    return LinearModel(features, vocabulary, weight, bias), tried[best]


def predict_linear(
    competition: Competition, train: Table, val: Table, y: np.ndarray, seed: int
) -> np.ndarray | None:
    """Fit with all features, and predict probabilities (N, classes) or standardized values (N,).

    `None` without any feature.
    """
    model, _ = fit_linear(competition, train, y, numeric_features=True, words=True, seed=seed)
    if model is None:
        return None
    outputs = model.outputs(val)
    if competition.task == "regression":
        return outputs
    if outputs.ndim == 1:
        outputs = np.stack([np.zeros_like(outputs), outputs], 1)
    return softmax(outputs, axis=1)


def _splits(competition: Competition, targets: np.ndarray, seed: int) -> list[Split]:
    shared = len(targets)
    if competition.task != "regression":
        counts = np.bincount(targets)
        shared = int(counts[counts > 1].sum())
    folds = min(FOLDS if len(targets) < MANY_ROWS else FOLDS_OF_MANY, shared)
    return split_rows(targets, competition.task, folds, 0.0, seed) if folds > 1 else []


def _matrix(features: HeadFeatures | None, words: WordFeatures | None, table: Table) -> csr_array:
    fitted = [each for each in (features, words) if each is not None]
    return csr_array(hstack([csr_array(each.transform(table)) for each in fitted]))


def _held_out(
    matrix: csr_array, targets: np.ndarray, classes: int, alpha: float, splits: list[Split]
) -> np.ndarray:
    outputs = np.zeros((len(targets), classes) if classes > 2 else len(targets), np.float32)
    for rows, held in splits:
        solution = _solve(matrix[rows], targets[rows], classes, alpha)
        outputs[held] = _apply(matrix[held], *solution)
    return outputs


def _solve(
    matrix: csr_array, targets: np.ndarray, classes: int, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (features, outputs) and bias (outputs,); 0 classes mean a regression."""
    if not classes:
        ridge = Ridge(alpha=alpha).fit(matrix, targets)
        return np.array([ridge.coef_], np.float32).T, np.array([ridge.intercept_], np.float32)
    columns = matrix.shape[1]  # pyright: ignore[reportOptionalSubscript]
    weight = np.zeros((columns, classes), np.float32)
    bias = np.full(classes, ABSENT, np.float32)
    present = np.unique(targets)
    if len(present) == 1:
        bias[present] = 0
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the network learns the rest
            logistic = LogisticRegression(C=1 / alpha, max_iter=200).fit(matrix, targets)
        coefficients, intercept = logistic.coef_, logistic.intercept_
        if len(present) == 2:  # one logit of the second class: split it between both
            coefficients, intercept = (
                np.concatenate([-each, each]) / 2 for each in (coefficients, intercept)
            )
        weight[:, present], bias[present] = coefficients.T, intercept
    return (weight[:, 1:] - weight[:, :1], bias[1:] - bias[:1]) if classes == 2 else (weight, bias)


def _apply(matrix: csr_array, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    outputs = np.asarray(matrix @ weight + bias, np.float32)
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs
