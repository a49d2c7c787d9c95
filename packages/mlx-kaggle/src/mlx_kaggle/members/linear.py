"""The linear model of a row; the network learns its residual."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from scipy.sparse import csr_array, hstack, vstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from mlx_kaggle.members.columns import word_matrix
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_kaggle.tables.dependence import Dependence, split_inside
from mlx_kaggle.tables.splits import Split
from mlx_tabtext import RowFeatures, Table, WordFeatures

# L2 penalties. A regression chooses the best one on held-out rows. For classes, log loss would
# choose a larger one than accuracy does (on titanic and nlp-disaster).
RIDGE_ALPHAS = (1.0, 10.0, 100.0)
LOGISTIC_ALPHA = 0.5
# The logit of a class without training rows: about one in a thousand.
ABSENT = -7.0
# Size of the 0/1 columns of the classes in an ordered model: the penalty leaves them nearly free.
LEVEL = 10.0
# Folds of the cross-fitting; two are enough for many rows.
FOLDS, FOLDS_OF_MANY, MANY_ROWS = 5, 2, 20_000

# What the outputs mean: values (a ridge regression), logits of classes, of each label by itself, or
# of "above class k" (the same weights for all k, as in proportional odds).
LinearKind = Literal["values", "classes", "labels", "ordered"]
KIND_OF_TASK: dict[str, LinearKind] = {
    **dict.fromkeys(VALUE_TASKS, "values"),
    "multilabel": "labels",
    "ordinal": "ordered",
}


@dataclass(frozen=True)
class LinearModel:
    """Ridge or logistic regression on numbers and categories, and on the words of text columns.

    `weight` is (features + words, outputs), `bias` (outputs,).
    """

    features: RowFeatures | None
    words: WordFeatures | None
    weight: np.ndarray
    bias: np.ndarray

    def outputs(self, table: Table) -> np.ndarray:
        """Return logits (N,) of two classes or (N, outputs), or scaled values; float32."""
        return _apply(_matrix(self.features, self.words, table), self.weight, self.bias)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form of the fitted features, without the weights."""
        fitted = {"features": self.features, "words": self.words}
        return {name: each.to_dict() if each else None for name, each in fitted.items()}

    @classmethod
    def from_dict(
        cls, values: dict[str, Any], weights: Path, prefix: str = ""
    ) -> "LinearModel | None":
        """Rebuild from `to_dict` and a file of weights; `None` without any feature."""
        features, words = values["features"], values["words"]
        if features is None and words is None:
            return None
        arrays = mx.load(str(weights))
        assert isinstance(arrays, dict)
        return cls(
            RowFeatures.from_dict(features) if features else None,
            WordFeatures.from_dict(words) if words else None,
            np.array(arrays[f"{prefix}weight"]),
            np.array(arrays[f"{prefix}bias"]),
        )


# L-BFGS solves systems of a few numbers in every iteration. OpenBLAS gives them to all its threads,
# and waits up to 50 times longer than it computes when another program uses a core.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_linear(
    competition: Competition,
    train: Table,
    targets: np.ndarray,
    kind: LinearKind,
    *,
    numeric_features: bool,
    words: bool,
    seed: int,
    dependence: Dependence | None = None,
) -> tuple[LinearModel | None, np.ndarray | None]:
    """Fit on `train`; also return the cross-fitted outputs of its rows.

    A cross-fitted output comes from a model that was not fitted on the row. The fitted model
    overfits its training rows, so the network would train on too small a residual. The output of
    the only row of a class is 0. With a `dependence` the model was not fitted on its group; times
    are blocks, each predicted by all others, because nothing is before the first. The penalty is
    chosen on later rows. `targets` are class numbers, labels or scaled values. Both results are
    `None` without any feature.
    """
    features = RowFeatures.fit(competition.schema, train) if numeric_features else None
    features = features if features and features.count else None
    vocabulary = WordFeatures.fit(competition.schema, train) if words else None
    vocabulary = vocabulary if vocabulary and vocabulary.words else None
    if features is None and vocabulary is None:
        return None, None
    targets = targets if kind == "values" else targets.astype(np.int64)
    matrix = _matrix(features, vocabulary, train)
    chosen_on = splits = _splits(competition, targets, kind, seed, dependence)
    if dependence and dependence.kind == "time":
        every = np.arange(len(targets))
        blocks = dependence.parts(FOLDS if len(targets) < MANY_ROWS else FOLDS_OF_MANY, seed)
        splits = [(np.setdiff1d(every, block), block) for block in blocks] or splits
    alphas = RIDGE_ALPHAS if kind == "values" else (LOGISTIC_ALPHA,)
    solvers = [_Solver(kind, len(competition.classes), alpha) for alpha in alphas]
    tried = [_held_out(matrix, targets, solve, chosen_on) for solve in solvers]
    best = 0
    if kind == "values":
        held = [rows for _, rows in chosen_on]
        scored = np.sort(np.concatenate(held)) if held else slice(None)
        best = int(np.argmin([np.square(each - targets)[scored].mean() for each in tried]))
    weight, bias = solvers[best](matrix, targets)
    cross_fitted = tried[best]
    if splits is not chosen_on:
        cross_fitted = _held_out(matrix, targets, solvers[best], splits)
    return LinearModel(features, vocabulary, weight, bias), cross_fitted


def _splits(
    competition: Competition,
    targets: np.ndarray,
    kind: LinearKind,
    seed: int,
    dependence: Dependence | None,
) -> list[Split]:
    """Return folds of the training rows; of a forecast blocks, as neighboring windows overlap."""
    folds = FOLDS if len(targets) < MANY_ROWS else FOLDS_OF_MANY
    if competition.task == "forecast":
        return list(KFold(min(folds, len(targets))).split(targets)) if len(targets) > 1 else []
    shared = len(targets)
    if kind in ("classes", "ordered"):
        counts = np.bincount(targets)
        shared = int(counts[counts > 1].sum())
    folds = min(folds, shared)
    # An ordinal regression has class numbers too.
    task = "ordinal" if competition.task == "ordinal" else competition.task
    return split_inside(dependence, targets, task, folds, 0.0, seed) if folds > 1 else []


def _matrix(features: RowFeatures | None, words: WordFeatures | None, table: Table) -> csr_array:
    parts = [csr_array(features.transform(table))] if features else []
    parts += [word_matrix(words, table)] if words else []
    return csr_array(hstack(parts))


def _held_out(
    matrix: csr_array, targets: np.ndarray, solve: "_Solver", splits: list[Split]
) -> np.ndarray:
    outputs: np.ndarray | None = None
    for rows, held in splits:
        found = _apply(matrix[held], *solve(matrix[rows], targets[rows]))
        if outputs is None:
            outputs = np.zeros((len(targets), *found.shape[1:]), np.float32)
        outputs[held] = found
    if outputs is None:
        shape = solve(matrix, targets)[1].shape
        outputs = np.zeros((len(targets), *(shape if shape != (1,) else ())), np.float32)
    return outputs


@dataclass(frozen=True)
class _Solver:
    """Fits weight (features, outputs) and bias (outputs,)."""

    kind: LinearKind
    classes: int
    alpha: float

    def __call__(self, matrix: csr_array, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "values":
            ridge = Ridge(alpha=self.alpha).fit(matrix, targets)
            weight, bias = np.atleast_2d(ridge.coef_).T, np.atleast_1d(ridge.intercept_)
            return weight.astype(np.float32), bias.astype(np.float32)
        if self.kind == "labels":
            fitted = [self._classes(matrix, label, 2) for label in targets.T]
            return tuple(np.concatenate(each, -1) for each in zip(*fitted, strict=True))  # type: ignore[return-value]
        if self.kind == "ordered":
            return self._ordered(matrix, targets)
        return self._classes(matrix, targets, self.classes)

    def _classes(
        self, matrix: csr_array, targets: np.ndarray, classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        columns = matrix.shape[1]  # pyright: ignore[reportOptionalSubscript]
        weight = np.zeros((columns, classes), np.float32)
        bias = np.full(classes, ABSENT, np.float32)
        present = np.unique(targets)
        if len(present) == 1:
            bias[present] = 0
        else:
            coefficients, intercept = self._logistic(matrix, targets)
            if len(present) == 2:  # one logit of the second class: split it between both
                coefficients, intercept = (
                    np.concatenate([-each, each]) / 2 for each in (coefficients, intercept)
                )
            weight[:, present], bias[present] = coefficients.T, intercept
        if classes == 2:
            return weight[:, 1:] - weight[:, :1], bias[1:] - bias[:1]
        return weight, bias

    def _ordered(self, matrix: csr_array, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit one logistic regression to K - 1 copies of the rows, is the class above k?

        The copies share their weights; each has a bias of its own, which decreases with k at the
        optimum (Cao 2020, theorem 2).
        """
        columns = matrix.shape[1]  # pyright: ignore[reportOptionalSubscript]
        levels = np.arange(self.classes - 1)
        above = targets > levels[:, None]  # (K - 1, N)
        if not 0 < above.mean() < 1:
            bias = np.where(above.any(1), -ABSENT, ABSENT).astype(np.float32)
            return np.zeros((columns, len(levels)), np.float32), bias
        level = LEVEL * np.repeat(np.eye(len(levels), dtype=np.float32), len(targets), 0)
        copies = hstack([vstack([matrix] * len(levels)), csr_array(level)])
        coefficients, intercept = self._logistic(csr_array(copies), above.ravel())
        bias = intercept[0] + LEVEL * coefficients[0, columns:]
        weight = np.tile(coefficients[0, :columns, None], len(levels))
        return weight.astype(np.float32), np.minimum.accumulate(bias).astype(np.float32)

    def _logistic(self, matrix: csr_array, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the network learns the rest
            logistic = LogisticRegression(C=1 / self.alpha, max_iter=200).fit(matrix, targets)
        return logistic.coef_, logistic.intercept_


def _apply(matrix: csr_array, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    outputs = np.asarray(matrix @ weight + bias, np.float32)
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs
