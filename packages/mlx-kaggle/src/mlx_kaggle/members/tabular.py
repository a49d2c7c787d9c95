"""TabM of mlx-tabular on numbers, categories and components of words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle.machine import sharing_cores
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.options import NO_OPTIONS, Option, positive
from mlx_kaggle.members.outputs import Levels, Outputs
from mlx_kaggle.members.saved import load_arrays, load_json, save_arrays, save_json
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_kaggle.tables.dependence import Dependence
from mlx_tabular import TabularClassifier, TabularRegressor
from mlx_tabular.splits import hold_out
from mlx_trainer.settings import Range

# Smaller than the defaults of mlx-tabular: on titanic as good, in a quarter of the time.
SETTINGS: dict[str, Any] = {"k": 16, "d_block": 128, "d_embedding": 8}
OPTIONS = {
    "k": positive(4, 32),
    "n_blocks": positive(1, 4, log=False),
    "d_block": positive(32, 512),
    "d_embedding": positive(4, 32),
    "dropout": Option(0.0, 0.5, allowed=Range(at_least=0, below=1)),
    "learning_rate": positive(3e-4, 1e-2),
    "weight_decay": Option(1e-5, 1e-1, True, Range(at_least=0)),
    "batch_size": positive(64, 512),
}


@dataclass(frozen=True)
class Tabular:
    """One TabM for each problem; a regression of several targets is one."""

    outputs: Outputs
    models: tuple[TabularClassifier | TabularRegressor, ...]
    spread: np.ndarray
    """(components,) standard deviations, of the training rows."""


def supports(competition: Competition, levels: Levels) -> bool:
    """Everything but intervals."""
    return levels is None


def fit(
    competition: Competition,
    columns: Columns,
    y: np.ndarray,
    seed: int,
    levels: Levels = None,
    threads: int = 2,
    options: Mapping[str, Any] = NO_OPTIONS,
    copies: Columns | None = None,
) -> Tabular:
    """Fit TabM; a tenth of the rows or more decides when to stop.

    `copies` are changed copies of the rows, with the same targets.
    """
    spread = np.maximum(columns.components.std(0), 1e-6)
    outputs = Outputs.of(competition, y)
    matrix = _matrix(columns, spread)
    widths = [columns.numbers.shape[1], columns.categories.shape[1], columns.components.shape[1]]
    edges = np.cumsum([0, *widths])
    settings = {
        "categorical_features": list(range(edges[1], edges[2])),
        "dense_features": list(range(edges[2], edges[3])),
        "seed": seed,
        **SETTINGS,
        **options,
    }
    # Products this small are slower with more BLAS threads, which wait for each other.
    more = None if copies is None else _matrix(copies, spread)
    with sharing_cores(threads):
        if competition.task in (*VALUE_TASKS, "ordinal"):
            values = y.astype(np.float64), "regression"
            models = [_fit(TabularRegressor(**settings), matrix, *values, more, columns.dependence)]
        else:
            models = [
                _fit(TabularClassifier(**settings), matrix, each.y, "multiclass", more,
                     columns.dependence)
                for each in outputs.problems(y)
            ]  # fmt: skip
    return Tabular(outputs, tuple(models), spread)


def _fit(
    model: Any,
    matrix: np.ndarray,
    y: np.ndarray,
    task: str,
    copies: np.ndarray | None,
    dependence: Dependence | None,
) -> Any:
    """Fit to rows and their copies, but not to copies of the rows that decide when to stop.

    These are of other groups, or later, if the rows depend on each other.
    """
    fraction, seed = model.validation_fraction, model.seed
    splits = dependence.splits(y, task, 0, fraction, seed) if dependence else []
    if copies is None and not splits:
        return model.fit(matrix, y)
    labels = y if isinstance(model, TabularClassifier) else None
    held = hold_out(len(y), fraction, seed, labels)
    for _, rows in splits:
        held = np.isin(np.arange(len(y)), rows)
    kept = ~held
    validation = (matrix[held], y[held]) if held.any() else None
    if copies is None:
        return model.fit(matrix[kept], y[kept], validation=validation)
    rows = np.concatenate([matrix[kept], copies[kept]])
    return model.fit(rows, np.concatenate([y[kept], y[kept]]), validation=validation)


def predict(model: Tabular, columns: Columns) -> np.ndarray:
    """Return the prediction of each row, as of `Target`."""
    matrix = _matrix(columns, model.spread)
    found = [
        each.predict_proba(matrix) if isinstance(each, TabularClassifier) else each.predict(matrix)
        for each in model.models
    ]
    return model.outputs.join(found, len(columns))


def save(model: Tabular, folder: Path) -> None:
    """Write outputs.json, spread.npz and the folder of each network."""
    save_json(folder / "outputs.json", {**model.outputs.to_dict(), "models": len(model.models)})
    save_arrays(folder / "spread.npz", {"spread": model.spread})
    for number, each in enumerate(model.models):
        each.save(folder / f"tabular-{number}")


def load(folder: Path) -> Tabular:
    """Read what `save` wrote."""
    values = load_json(folder / "outputs.json")
    outputs, count = Outputs.from_dict(values), values["models"]
    kind = TabularRegressor if outputs.kind == "values" else TabularClassifier
    models = tuple(kind.load(folder / f"tabular-{number}") for number in range(count))
    return Tabular(outputs, models, load_arrays(folder / "spread.npz")["spread"])


def _matrix(columns: Columns, spread: np.ndarray) -> np.ndarray:
    return np.concatenate([columns.numbers, columns.categories, columns.components / spread], 1)
