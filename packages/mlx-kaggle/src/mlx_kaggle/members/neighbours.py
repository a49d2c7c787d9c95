"""k nearest neighbours on standardized numbers, categories, and components of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold

from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.options import NO_OPTIONS, positive
from mlx_kaggle.members.outputs import Levels, Outputs
from mlx_kaggle.members.saved import load_arrays, load_json, save_arrays, save_json
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence
from mlx_kaggle.tables.splits import Split

NEIGHBOURS = (5, 15, 45)
# `count` is the only number of neighbours that is tried.
OPTIONS = {"count": positive(3, 100)}
FOLDS = 5
# Components of the embeddings.
COMPONENTS = 50
# Rows that are compared with all training rows at once: 80 MB for 10,000 training rows.
BATCH = 1_000
# Rows that the number of neighbours is chosen on.
CHOICE_ROWS = 5_000


@dataclass(frozen=True)
class Neighbours:
    """The training rows, and the targets that vote."""

    outputs: Outputs
    rows: np.ndarray
    """(N, F) float32."""
    targets: np.ndarray
    """(N, outputs): 0 and 1 of classes or labels, or values."""
    axes: np.ndarray
    """(1 + D, at most 50): the mean and the components of the embeddings; (0, 0) without."""
    sizes: np.ndarray
    """(2,) the mean norm of components of words and of embeddings, which become 1."""
    count: int
    """Neighbours of a row."""


def supports(competition: Competition, levels: Levels = None) -> bool:
    """Every task, without intervals."""
    return levels is None


def fit(
    competition: Competition,
    columns: Columns,
    y: np.ndarray,
    seed: int,
    levels: Levels = None,
    threads: int = 2,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> Neighbours:
    """Keep the rows, and choose how many neighbours vote by 5 folds of at most 5,000 rows.

    Raises `ValueError` for intervals, and without any column.
    """
    if levels:
        raise ValueError("neighbours has no intervals; leave it out of --members")
    outputs = Outputs.of(competition, y)
    wide = y.reshape(len(y), -1).astype(np.float64)
    targets = np.eye(outputs.shape[0])[y] if outputs.kind == "classes" else wide
    axes = _axes(columns.embeddings, seed)
    texts = columns.components, _project(columns.embeddings, axes, len(columns))
    sizes = np.array([np.linalg.norm(each, axis=1).mean() or 1.0 for each in texts])
    rows = _rows(columns, axes, sizes)
    if not rows.shape[1]:
        raise ValueError("neighbours has no column to learn from; leave it out of --members")
    if "count" in options:
        count = min(options["count"], len(rows))
    else:
        in_time = columns.naive is not None
        splits = _splits(y, competition.task, in_time, seed, columns.dependence)
        count = _choose(rows, targets, splits)
    return Neighbours(outputs, rows, targets, axes, sizes, count)


def predict(model: Neighbours, columns: Columns) -> np.ndarray:
    """Return the mean target of the nearest rows, each weighted by 1 / distance."""
    rows = _rows(columns, model.axes, model.sizes)
    found = _vote(model.rows, model.targets, rows, (model.count,))[0]
    return found.reshape(len(columns), *model.outputs.shape)


def save(model: Neighbours, folder: Path) -> None:
    """Write neighbours.json and neighbours.npz."""
    values = {"outputs": model.outputs.to_dict(), "count": model.count}
    save_json(folder / "neighbours.json", values)
    arrays = {name: getattr(model, name) for name in ("rows", "targets", "axes", "sizes")}
    save_arrays(folder / "neighbours.npz", arrays)


def load(folder: Path) -> Neighbours:
    """Read what `save` wrote."""
    values = load_json(folder / "neighbours.json")
    arrays = load_arrays(folder / "neighbours.npz")
    return Neighbours(Outputs.from_dict(values["outputs"]), count=values["count"], **arrays)


def _axes(embeddings: np.ndarray | None, seed: int) -> np.ndarray:
    if embeddings is None:
        return np.zeros((0, 0))
    components = min(COMPONENTS, *embeddings.shape)
    pca = PCA(components, random_state=seed).fit(embeddings.astype(np.float64))
    return np.concatenate([np.asarray(pca.mean_)[None], np.asarray(pca.components_)]).T


def _project(embeddings: np.ndarray | None, axes: np.ndarray, rows: int) -> np.ndarray:
    if embeddings is None or not axes.size:
        return np.zeros((rows, 0))
    # Not a matrix product: the last bits of one depend on the number of rows.
    return np.einsum("nd,dc->nc", embeddings - axes[:, 0], axes[:, 1:])


def _rows(columns: Columns, axes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    texts = columns.components, _project(columns.embeddings, axes, len(columns))
    scaled = [each / size for each, size in zip(texts, sizes, strict=True)]
    return np.concatenate([columns.scaled, *scaled], 1).astype(np.float32)


def _splits(
    y: np.ndarray, task: str, in_time: bool, seed: int, dependence: Dependence | None
) -> list[Split]:
    """Return folds of at most `CHOICE_ROWS` of the rows; of a forecast blocks."""
    if len(y) < 2:
        return []
    some = np.arange(len(y))
    if len(y) > CHOICE_ROWS:
        some = np.sort(np.random.default_rng(seed).choice(len(y), CHOICE_ROWS, replace=False))
    splits = dependence[some].splits(y[some], task, FOLDS, 0.0, seed) if dependence else []
    options = {} if in_time else {"shuffle": True, "random_state": seed}
    splits = splits or KFold(min(FOLDS, len(some)), **options).split(some)
    return [(some[kept], some[held]) for kept, held in splits]


def _choose(rows: np.ndarray, targets: np.ndarray, splits: list[Split]) -> int:
    """Return the number of neighbours with the least squared error on held-out rows.

    Of classes this is the Brier score: log loss is infinite where no neighbour has the class.
    """
    if not splits:
        return 1
    counts = sorted({min(count, len(rows)) for count in NEIGHBOURS})
    losses = np.zeros(len(counts))
    for kept, held in splits:
        for at, found in enumerate(_vote(rows[kept], targets[kept], rows[held], counts)):
            losses[at] += np.square(found - targets[held]).sum()
    return counts[int(np.argmin(losses))]


def _vote(
    known: np.ndarray, targets: np.ndarray, rows: np.ndarray, counts: Sequence[int]
) -> list[np.ndarray]:
    """Return the weighted mean target of the nearest `known` rows, for each count."""
    found = [np.zeros((len(rows), targets.shape[1])) for _ in counts]
    most = min(max(counts), len(known))
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        distances = cdist(rows[part], known)
        nearest = np.argpartition(distances, most - 1, axis=1)[:, :most]
        near = np.take_along_axis(distances, nearest, 1)
        order = np.argsort(near, axis=1, kind="stable")
        nearest, near = np.take_along_axis(nearest, order, 1), np.take_along_axis(near, order, 1)
        weights = 1 / np.maximum(near, 1e-3 * (near[:, -1:] + 1e-9))
        for at, count in enumerate(counts):
            shares = weights[:, :count] / weights[:, :count].sum(1, keepdims=True)
            found[at][part] = np.einsum("nk,nkt->nt", shares, targets[nearest[:, :count]])
    return found
