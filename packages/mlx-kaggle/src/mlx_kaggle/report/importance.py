"""What the columns do to the answer of a run: permutation importance and partial dependence.

Each fold predicts held-out rows, with its own members, after the cells of a column were changed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle.blend import Blend
from mlx_kaggle.members.catalog import PLAIN, TEXT, is_text, label_of, members_of, module_of
from mlx_kaggle.members.fold_columns import FoldColumns
from mlx_kaggle.members.model import Member
from mlx_kaggle.members.saved import load_json
from mlx_kaggle.members.text import predict_member
from mlx_kaggle.members.variants import base_of
from mlx_kaggle.prediction.blended import Results, aligned, loss_of
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import Scaler, Target, point
from mlx_kaggle.training.fold import SCALER
from mlx_kaggle.training.job import Job, text_models
from mlx_tabtext import Table, is_missing, parse_number

# Rows of all folds together, and processor seconds: this share of the run's, and no fewer than the
# least. Other programs do not make them longer, so they do not change what is measured.
ROWS, FEWEST = 1000, 200
SHARE, LEAST_SECONDS = 0.1, 4.0
MOST_REPEATS = 3
# Members that read texts: seconds for each prediction, so left out where time is short.
SLOW = (TEXT, "embeddings")
SHOWN, POINTS, MOST_OUTPUTS = 6, 8, 4


@dataclass(frozen=True)
class Dependence:
    """The mean answer for held-out rows whose column has each of these cells."""

    column: str
    cells: list[str]
    numbers: list[float] | None
    """The cells as numbers, of a numeric column."""
    answers: np.ndarray
    """(folds, cells, outputs)."""
    outputs: list[str]


@dataclass(frozen=True)
class Explained:
    """Importance and dependence, and what they were measured with."""

    importance: list[tuple[str, float, float]] = field(default_factory=list)
    """Column, relative growth of the loss when its cells are permuted, standard error."""
    dependence: list[Dependence] = field(default_factory=list)
    note: str = ""


def explain(folder: Path, results: Results) -> Explained:
    """Measure importance and dependence with the members in `folder`, in bounded time."""
    job, blend = results.job, results.choice.blend
    if job.competition.forecast:
        return Explained(note="Not measured for a forecast: its columns are one past.")
    names = members_of(job.competition, blend.members)
    if not names or not all((folder / "members" / each).is_dir() for each in _folders(job, names)):
        return Explained(note="Not measured: the members are in the folders of other runs.")
    if names == ["constant"]:
        return Explained(note="The constant predicts, so no column changes the answer.")
    seconds = max(SHARE * results.seconds, LEAST_SECONDS)
    started = time.process_time()
    quick = [name for name in names if base_of(name) not in SLOW]
    probe = _Probe(folder, results, names)
    cost, columns = probe.cost(), _ranked_columns(job)
    if quick and quick != names and cost * len(columns) > seconds / 2:
        probe = _Probe(folder, results, quick)
        cost = probe.cost()
    needed = 2 * cost * len(columns)
    if needed > seconds:
        cost = probe.shrink(seconds / needed)
    measured = columns[: max(int(seconds / 2 / cost), 3)]
    repeats = int(np.clip(seconds / 2 / (cost * len(measured)), 1, MOST_REPEATS))
    importance = probe.importance(measured, repeats)
    left = seconds - (time.process_time() - started)
    plotted = [name for name, gain, _ in importance if gain > 0 and probe.has_values(name)]
    shown = plotted[: int(np.clip(left / (cost * POINTS), 2, SHOWN))]
    dependence = [found for name in shown if (found := probe.dependence(name)) is not None]
    return Explained(importance, dependence, probe.note(names, columns, measured, repeats))


def _folders(job: Job, names: Sequence[str]) -> list[str]:
    folds = range(len(job.splits))
    columns = [] if all(map(is_text, names)) else [f"columns-fold-{fold}" for fold in folds]
    return columns + [each for fold in folds for name in names for each in _of(job, name, fold)]


def _of(job: Job, name: str, fold: int) -> list[str]:
    if not is_text(name):
        return [f"{name}-fold-{fold}"]
    return [folder for folder, _ in text_models(job.config, fold, name)]


def _ranked_columns(job: Job) -> list[str]:
    """Return the columns that a model reads, those that tell the target most first."""
    from mlx_tabtext import TableText

    rows = job.splits[0][0]
    text = TableText(job.competition.schema).fit(take(job.table, rows), target=job.encoded[rows])
    return list(text.statistics.ranking)


@dataclass
class _Fold:
    rows: np.ndarray
    table: Table
    predict: Callable[[Table], dict[str, np.ndarray]]


class _Probe:
    """The members of each fold, with rows that they were not trained on."""

    def __init__(self, folder: Path, results: Results, names: Sequence[str]):
        self.job, self.names = results.job, list(names)
        self.blend = _restricted(results.choice.blend, self.job, self.names)
        self.loss = loss_of(self.job.competition)
        self.folds = []
        for fold in range(len(self.job.splits)):
            predict = _open(folder, self.job, self.names, fold)
            self.folds.append(_Fold(*self._rows(fold, ROWS), predict))

    def _rows(self, fold: int, count: int) -> tuple[np.ndarray, Table]:
        """Draw the share of a fold of `count` rows that it did not train on."""
        rng = np.random.default_rng(self.job.config.seed + fold)
        each = max(count // len(self.job.splits), 20)
        rows = np.sort(rng.permutation(self.job.splits[fold][1])[:each])
        return rows, take(self.job.table, rows)

    def shrink(self, factor: float) -> float:
        """Keep this share of the rows; return the seconds of predicting them once."""
        count = max(int(factor * sum(len(fold.rows) for fold in self.folds)), FEWEST)
        for at, fold in enumerate(self.folds):
            fold.rows, fold.table = self._rows(at, count)
        return self.cost()

    def has_values(self, column: str) -> bool:
        """Whether a column has values to set: not texts or dates."""
        return self.job.competition.schema[column].kind not in ("text", "date")

    def cost(self) -> float:
        """Return the seconds of predicting the rows once, the second time."""
        self._losses(self.folds[0], self.folds[0].table)  # what is loaded and compiled once
        started = time.process_time()
        self.base = [self._losses(fold, fold.table) for fold in self.folds]
        return max(time.process_time() - started, 1e-4)

    def importance(self, columns: Sequence[str], repeats: int) -> list[tuple[str, float, float]]:
        """Return the growth of the mean loss, relative to it, with its standard error."""
        base = np.concatenate(self.base[: len(self.folds)])
        found = []
        for column in columns:
            grown = []
            for at, fold in enumerate(self.folds):
                rng = np.random.default_rng(self.job.config.seed + at)
                runs = []
                for _ in range(repeats):
                    order = rng.permutation(len(fold.rows))
                    cells = [fold.table[column][row] for row in order]
                    runs.append(self._losses(fold, {**fold.table, column: cells}) - self.base[at])
                grown.append(np.mean(runs, 0))
            rows = np.concatenate(grown)
            scale = max(float(base.mean()), 1e-12)
            error = float(rows.std() / len(rows) ** 0.5)
            found.append((column, float(rows.mean()) / scale, error / scale))
        return sorted(found, key=lambda each: -each[1])

    def dependence(self, column: str) -> Dependence | None:
        """Return the mean answer for each of a few cells; `None` of fewer than two."""
        numeric = self.job.competition.schema[column].kind == "numeric"
        cells, numbers = self._cells(column, numeric)
        if len(cells) < 2:
            return None
        answers = [
            [self._answer(fold, {**fold.table, column: [cell] * len(fold.rows)}) for cell in cells]
            for fold in self.folds
        ]
        chosen, names = self._outputs()
        values = np.array(answers)[..., chosen]
        return Dependence(column, [str(cell) for cell in cells], numbers, values, names)

    def _cells(self, column: str, numeric: bool) -> tuple[list[Any], list[float] | None]:
        """Return cells of the table: of evenly spaced ranks of a number, the most frequent else."""
        filled = [cell for cell in self.job.table[column] if not is_missing(cell)]
        if not numeric:
            names, counts = np.unique([str(cell) for cell in filled], return_counts=True)
            return [str(each) for each in names[np.argsort(-counts, kind="stable")][:POINTS]], None
        written = self.job.competition.schema[column].number_format
        read = [(number, cell) for cell in filled
                if (number := parse_number(cell, written)) is not None]  # fmt: skip
        read.sort(key=lambda each: each[0])
        places = np.linspace(0.02, 0.98, POINTS) * (len(read) - 1)
        spaced = {read[int(at)][0]: read[int(at)][1] for at in places} if read else {}
        return list(spaced.values()), list(spaced)

    def _outputs(self) -> tuple[list[int], list[str]]:
        competition = self.job.competition
        if competition.task == "binary":
            return [1], [f"probability of {competition.classes[1]}"]
        if competition.task == "ordinal":
            return [0], ["class number"]
        names = list(competition.classes or competition.targets)
        shown = list(range(min(len(names), MOST_OUTPUTS)))
        if competition.classes:
            y = self.job.encoded
            counts = y.sum(0) if y.ndim == 2 else np.bincount(y, minlength=len(names))
            shown = sorted(np.argsort(-counts, kind="stable")[:MOST_OUTPUTS].tolist())
        return shown, [names[at] for at in shown]

    def _predict(self, fold: _Fold, table: Table) -> np.ndarray:
        prediction = self.blend.apply(aligned(self.job.competition, fold.predict(table)))
        if self.job.competition.task == "ordinal":
            return Target(self.job.competition).expected_class(prediction)
        return prediction

    def _losses(self, fold: _Fold, table: Table) -> np.ndarray:
        return self.loss.rows(self.job.encoded[fold.rows], self._predict(fold, table))

    def _answer(self, fold: _Fold, table: Table) -> np.ndarray:
        return point(self._predict(fold, table)).reshape(len(fold.rows), -1).mean(0)

    def note(
        self, names: Sequence[str], columns: Sequence[str], measured: Sequence[str], repeats: int
    ) -> str:
        """Say which members and rows were used, and what was left out."""
        labels = ", ".join(self.blend.members)
        rows = sum(len(fold.rows) for fold in self.folds)
        folds = "fold" if len(self.folds) == 1 else "folds"
        line = (f"Measured with {labels} on {rows:,} held-out rows of {len(self.folds)} {folds}, "
                f"each column permuted {repeats} time{'s' if repeats > 1 else ''}.")  # fmt: skip
        left = [label_of(self.job.competition, name) for name in names if name not in self.names]
        if left:
            line += f" Without {', '.join(left)} of the blend, which would take too long."
        if len(measured) < len(columns):
            line += (f" {len(measured)} of {len(columns)} columns were measured, those that tell "
                     f"most of the target alone.")  # fmt: skip
        return line


def _restricted(blend: Blend, job: Job, names: Sequence[str]) -> Blend:
    """Return the blend of the named members alone: their weights, of their sum."""
    labels = [label_of(job.competition, name) for name in names]
    if set(labels) >= set(blend.members):
        return blend
    total = sum(blend.weights[label] for label in labels)
    weights = {label: blend.weights[label] / total for label in labels}
    return replace(blend, weights=weights, ranks=None)


def _open(
    folder: Path, job: Job, names: Sequence[str], fold: int
) -> Callable[[Table], dict[str, np.ndarray]]:
    """Load the models of a fold; return their prediction of a table by label of the member."""
    members, competition = folder / "members", job.competition
    columns = None
    if not all(map(is_text, names)):
        columns = FoldColumns.load(members / f"columns-fold-{fold}")
    models: dict[str, Any] = {}
    for name in names:
        paths = [members / each for each in _of(job, name, fold)]
        if is_text(name):
            models[name] = [Member.load(path) for path in paths]
        else:
            models[name] = module_of(name).load(paths[0]), load_json(paths[0] / SCALER)

    def predict(table: Table) -> dict[str, np.ndarray]:
        found, read = {}, None
        if columns is not None:
            embeddings = None
            if "embeddings" in names:
                from mlx_kaggle.members.fold_columns import embed_rows

                embeddings = embed_rows(job.config, competition, table, columns.prose)
            read = columns.columns(table, embeddings)
        for name, model in models.items():
            if is_text(name):
                networks = [predict_member(m, competition, table, job.config, 1) for m in model]
                found[label_of(competition, name)] = Target(competition).combine(networks)
                continue
            assert columns is not None
            assert read is not None
            mine = columns.as_they_are(read) if name == PLAIN else read
            prediction = module_of(name).predict(model[0], mine)
            if model[1]:
                prediction = Scaler.from_dict(model[1]).inverse(prediction, table)
            found[label_of(competition, name)] = prediction
        return found

    return predict
