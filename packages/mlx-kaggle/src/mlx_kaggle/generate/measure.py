"""What generated columns gain: gradient boosting with and without them on rows it did not see."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from mlx_kaggle.generate.candidates import Candidate, Feature, Learned
from mlx_kaggle.members.outputs import without_unknown
from mlx_kaggle.tables.dependence import Dependence
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.splits import split_rows
from mlx_tabtext import Schema, Table, is_missing, numbers_of

# Small tables are split several times: one split of so few rows decides by chance.
FEW_ROWS, REPEATS, FOLDS, FOLDS_OF_MANY = 2000, 2, 5, 3
MAX_ROWS = 4000
# Small trees and few bins: a noisy column costs them less, and a fit takes a fifth of the time.
OPTIONS = {"learning_rate": 0.2, "max_leaf_nodes": 8, "max_bins": 63, "early_stopping": False}
# The boosting of K > 2 classes grows K trees an iteration.
ITERATIONS, MIN_ITERATIONS = 20, 7
# A categorical column has fewer values than there are bins.
MAX_OUTPUTS, MAX_CATEGORIES = 3, 60
# Columns are left off if the loss rises by this many standard errors. A stricter rule keeps what is
# lucky in one fold: log loss of LightGBM on titanic, mean of three shuffles, 0.3985 with one error,
# 0.3950 with two, 0.3948 with every column, 0.4016 where target means had to lower the loss.
ERRORS = 2.0
SMALLEST = 1e-3


# Values of the rows that fit the boosting, and of the held-out rows, of each column.
Columns = list[tuple[np.ndarray, np.ndarray]]


@dataclass
class Fold:
    """One split: the rows of both sides, and the columns so far."""

    rest: np.ndarray
    """All training rows but the held-out ones: they fit the generated columns."""
    model: np.ndarray
    """Positions in `rest` of the rows that fit the boosting."""
    held: np.ndarray
    columns: Columns = field(default_factory=list)


@dataclass
class Scored:
    """Generated columns of one fold, and the losses with them."""

    columns: Columns
    losses: np.ndarray


@dataclass
class Trial:
    """Compares candidates in order; those that help become part of what the next must beat."""

    table: Table
    """The training rows, with every part as a column."""
    y: np.ndarray
    task: str
    seed: int
    dependence: Dependence | None
    folds: list[Fold]
    categorical: list[bool]
    losses: list[np.ndarray]
    """Of each fold: the loss of each held-out row."""

    @classmethod
    def start(
        cls,
        schema: Schema,
        table: Table,
        y: np.ndarray,
        task: str,
        seed: int,
        dependence: Dependence | None = None,
    ) -> "Trial":
        """Score the columns of the schema alone, on folds by the `dependence` of the rows."""
        folds = _folds(y, task, seed, dependence)
        columns = [number.values(table) for number in numbers_of(schema)]
        categorical = [False] * len(columns)
        for column in schema.features:
            if column.kind == "categorical":
                columns.append(_codes(table[column.name]))
                categorical.append(True)
        for fold in folds:
            rows = fold.rest[fold.model]
            fold.columns = [(values[rows], values[fold.held]) for values in columns]
        trial = cls(table, y, task, seed, dependence, folds, categorical, [])
        trial.losses = [trial._score(fold, [], []) for fold in folds]
        return trial

    def gain(self, candidate: Candidate) -> tuple[float, bool]:
        """Return the relative decrease of the loss, and whether the columns are kept."""
        kinds = [feature.kind == "categorical" for feature in candidate.features]
        total, count = np.zeros(len(self.y)), np.zeros(len(self.y))
        added = []
        for fold, before in zip(self.folds, self.losses, strict=True):
            how = self.table, self.y, fold, self.dependence
            columns = [_columns(each, *how) for each in candidate.features]
            added.append(Scored(columns, self._score(fold, columns, kinds)))
            total[fold.held] += before - added[-1].losses
            count[fold.held] += 1
        difference = total[count > 0] / count[count > 0]
        mean, error = difference.mean(), difference.std() / np.sqrt(len(difference))
        loss = np.concatenate(self.losses).mean()
        gain = float(mean / loss) if loss > 0 else 0.0
        kept = bool(mean >= -ERRORS * error)
        if kept:
            self.losses = [each.losses for each in added]
            self.categorical += kinds
            for fold, each in zip(self.folds, added, strict=True):
                fold.columns += each.columns
        return gain, kept

    def _score(self, fold: Fold, columns: Columns, kinds: list[bool]) -> np.ndarray:
        """Return the loss of each held-out row."""
        rows = len(fold.model), len(fold.held)
        each = [*fold.columns, *columns] or [(np.zeros(rows[0]), np.zeros(rows[1]))]
        x_train, x_held = (np.stack([column[side] for column in each], 1) for side in (0, 1))
        x_train = without_unknown(x_train)
        categorical = np.array([*self.categorical, *kinds] or [False], bool)
        y_train, y_held = self.y[fold.rest[fold.model]], self.y[fold.held]
        return _losses(x_train, y_train, x_held, y_held, self.task, categorical, self.seed)


def _folds(y: np.ndarray, task: str, seed: int, dependence: Dependence | None) -> list[Fold]:
    rng = np.random.default_rng(seed)
    count = len(y)
    rows = np.sort(rng.choice(count, min(count, MAX_ROWS), replace=False))
    few = len(rows) < FEW_ROWS
    number, repeats = (FOLDS, REPEATS) if few else (FOLDS_OF_MANY, 1)
    if dependence and (folds := _dependent_folds(y, task, seed, dependence, rows, number, repeats)):
        return folds
    folds = []
    for repeat in range(repeats):
        for model, held in split_rows(y[rows], task, number, 0.0, seed + repeat):
            rest = np.setdiff1d(np.arange(count), rows[held])
            folds.append(Fold(rest, np.searchsorted(rest, np.sort(rows[model])), rows[held]))
    return folds


def _dependent_folds(
    y: np.ndarray,
    task: str,
    seed: int,
    dependence: Dependence,
    some: np.ndarray,
    number: int,
    repeats: int,
) -> list[Fold]:
    """Return folds whose `rest` has no row of a held-out group, or only rows that are earlier.

    Only the rows in `some` fit the boosting, or are held out. Times are divided in one way only.
    """
    repeats = 1 if dependence.kind == "time" else repeats
    splits = [
        split
        for repeat in range(repeats)
        for split in dependence.splits(y, task, number, 0.0, seed + repeat)
    ]
    folds = [
        Fold(rest, np.flatnonzero(np.isin(rest, some)), np.intersect1d(held, some))
        for rest, held in splits
    ]
    return [fold for fold in folds if len(fold.model) and len(fold.held)]


def _columns(
    feature: Feature, table: Table, y: np.ndarray, fold: Fold, dependence: Dependence | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the model rows and of the held-out rows, fitted without the latter."""
    if isinstance(feature, Learned):
        rest, held = _needed(feature, table, fold.rest), _needed(feature, table, fold.held)
        fitted = feature.fit(rest, y[fold.rest])
        of = dependence[fold.rest] if dependence else None
        sides = fitted.transform_training(rest, y[fold.rest], of), fitted.transform(held)
        sides = [sides[0][row] for row in fold.model], sides[1]
    else:
        cells = feature.transform(table)
        rows = fold.rest[fold.model]
        sides = [cells[row] for row in rows], [cells[row] for row in fold.held]
    if feature.kind == "categorical":
        codes = _codes([*sides[0], *sides[1]])
        return codes[: len(sides[0])], codes[len(sides[0]) :]
    return np.array(sides[0], np.float64), np.array(sides[1], np.float64)  # None is NaN


def _codes(cells: list) -> np.ndarray:
    """Return category numbers, the most frequent first; NaN if missing or rare."""
    texts = [None if is_missing(cell) else str(cell).strip() for cell in cells]
    counts = Counter(text for text in texts if text is not None)
    codes = {text: code for code, (text, _) in enumerate(counts.most_common(MAX_CATEGORIES))}
    return np.array([codes.get(text or "", np.nan) for text in texts], np.float64)


def _losses(x_train, y_train, x_held, y_held, task, categorical, seed) -> np.ndarray:
    """Return the loss of each held-out row, the mean over the outputs."""
    options = {**OPTIONS, "categorical_features": categorical, "random_state": seed}
    values = task in ("regression", "ordinal")
    if y_train.ndim == 2:
        outputs = range(min(y_train.shape[1], MAX_OUTPUTS))
        found = [
            _losses(x_train, y_train[:, output], x_held, y_held[:, output],
                    task if values else "binary", categorical, seed)
            for output in outputs
        ]  # fmt: skip
        return np.mean(found, 0)
    with threadpool_limits(1, "openmp"):
        if values:
            trees = HistGradientBoostingRegressor(max_iter=ITERATIONS, **options)
            return np.square(trees.fit(x_train, y_train).predict(x_held) - y_held)
        classes = np.unique(y_train)
        if len(classes) < 2:
            return np.zeros(len(y_held))
        models = 1 if len(classes) == 2 else len(classes)
        iterations = max(MIN_ITERATIONS, ITERATIONS * 3 // max(models, 3))
        trees = HistGradientBoostingClassifier(max_iter=iterations, **options).fit(x_train, y_train)
        probabilities = np.full((len(y_held), int(max(y_train.max(), y_held.max())) + 1), 0.0)
        probabilities[:, classes] = trees.predict_proba(x_held)
    return -np.log(np.maximum(probabilities[np.arange(len(y_held)), y_held], SMALLEST))


def _needed(feature: Learned, table: Table, rows: np.ndarray) -> Table:
    """Return the rows of the columns that a feature reads."""
    names = {feature.column, getattr(feature, "filled", feature.column)}
    if (number := getattr(feature, "number", None)) is not None:
        names.add(number.name)
    return take({name: table[name] for name in names}, rows)
