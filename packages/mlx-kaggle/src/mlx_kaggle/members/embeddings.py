"""Frozen encoder embeddings beside the columns of a table: a linear model and trees, averaged."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array
from sklearn.decomposition import PCA

from mlx_kaggle.members import gradient_trees, linear_words
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.options import NO_OPTIONS, Option
from mlx_kaggle.members.outputs import Levels
from mlx_kaggle.members.saved import load_arrays, load_json, save_arrays, save_json
from mlx_kaggle.tables.competition import Competition

Variant = Literal["both", "linear", "trees"]
OPTIONS = {"variant": Option(choices=("both", "linear", "trees"))}
# Components of the embeddings that trees split on.
COMPONENTS = 50
# Norm of the embedding of a row for the linear model, as that of its words. F1 on tweets with norms
# 1, 2, 4 and 10: 0.791, 0.785, 0.781 and 0.775.
NORM = 1.0


@dataclass(frozen=True)
class Embeddings:
    """A linear model, trees, or both; their mean predicts."""

    linear: linear_words.LinearWords | None
    trees: gradient_trees.GradientTrees | None
    scale: np.ndarray
    """(2, D) mean and standard deviation of the embeddings."""
    axes: np.ndarray
    """(D, at most 50) principal components of the standardized embeddings."""


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
    variant: Variant = "both",
    options: Mapping[str, Any] = NO_OPTIONS,
) -> Embeddings:
    """Fit ridge or logistic regression on words, columns and embeddings, and boosted trees.

    The trees see numbers, categories and principal components. Raises `ValueError` without
    embeddings.
    """
    variant = options.get("variant", variant)
    given = _given(columns).astype(np.float64)
    scale = np.stack([given.mean(0), np.maximum(given.std(0), 1e-6)])
    components = min(COMPONENTS, *given.shape)
    pca = PCA(components, random_state=seed).fit((given - scale[0]) / scale[1])
    model = Embeddings(None, None, scale, np.asarray(pca.components_).T)
    arguments = y, seed, levels, threads
    linear = trees = None
    if variant != "trees":
        linear = linear_words.fit(competition, _for_linear(model, columns), *arguments)
    if variant != "linear":
        trees = gradient_trees.fit(competition, _for_trees(model, columns), *arguments)
    return replace(model, linear=linear, trees=trees)


def predict(model: Embeddings, columns: Columns) -> np.ndarray:
    """Return the prediction of each row, as of `Target`: the mean of both models."""
    found = []
    if model.linear:
        found.append(linear_words.predict(model.linear, _for_linear(model, columns)))
    if model.trees:
        found.append(gradient_trees.predict(model.trees, _for_trees(model, columns)))
    return np.mean(found, axis=0)


def save(model: Embeddings, folder: Path) -> None:
    """Write embeddings.json and embeddings.npz, and the models in folders."""
    parts = {"linear": model.linear is not None, "trees": model.trees is not None}
    save_json(folder / "embeddings.json", parts)
    save_arrays(folder / "embeddings.npz", {"scale": model.scale, "axes": model.axes})
    if model.linear:
        linear_words.save(model.linear, folder / "linear")
    if model.trees:
        gradient_trees.save(model.trees, folder / "trees")


def load(folder: Path) -> Embeddings:
    """Read what `save` wrote."""
    parts = load_json(folder / "embeddings.json")
    return Embeddings(
        linear_words.load(folder / "linear") if parts["linear"] else None,
        gradient_trees.load(folder / "trees") if parts["trees"] else None,
        **load_arrays(folder / "embeddings.npz"),
    )


def _given(columns: Columns) -> np.ndarray:
    if columns.embeddings is None:
        raise ValueError(
            "embeddings needs an encoder: give --encoder, or leave it out of --members"
        )
    return columns.embeddings


def _standardized(model: Embeddings, columns: Columns) -> np.ndarray:
    return (_given(columns) - model.scale[0]) / model.scale[1]


def _for_linear(model: Embeddings, columns: Columns) -> Columns:
    """Return the columns with embeddings instead of character n-grams."""
    scaled = [columns.scaled, _standardized(model, columns) * (NORM / np.sqrt(len(model.axes)))]
    nothing = csr_array(np.zeros((len(columns), 0), np.float32))
    return replace(columns, scaled=np.concatenate(scaled, 1), characters=nothing)


def _for_trees(model: Embeddings, columns: Columns) -> Columns:
    # Not a matrix product: the last bits of one depend on the number of rows.
    components = np.einsum("nd,dc->nc", _standardized(model, columns), model.axes)
    return replace(columns, components=components)
