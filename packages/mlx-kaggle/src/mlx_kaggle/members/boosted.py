"""LightGBM, XGBoost or CatBoost on numbers, native categories and components of words."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.model_selection import train_test_split

from mlx_kaggle.members.boosted_libraries import (
    ROUNDS,
    Booster,
    CatBoost,
    Data,
    LightGBM,
    XGBoost,
)
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.outputs import Levels, Outputs, Problem, tree_matrix
from mlx_kaggle.members.saved import load_json, save_json
from mlx_kaggle.tables.competition import Competition
from mlx_trainer import write_atomic

Library = Literal["lightgbm", "xgboost", "catboost"]
BOOSTERS: dict[Library, Booster] = {
    "lightgbm": LightGBM(),
    "xgboost": XGBoost(),
    "catboost": CatBoost(),
}
SUFFIX = {"lightgbm": "txt", "xgboost": "json", "catboost": "cbm"}
# The share of training rows that the number of rounds is chosen on.
HELD_OUT = 0.1
# With fewer rows a tenth says nothing about rounds.
FEW_ROWS, FEW_ROUNDS = 50, 100


@dataclass(frozen=True)
class Boosted:
    """One model of a library for each problem of `outputs`."""

    library: Library
    outputs: Outputs
    models: tuple[Any, ...]
    classes: tuple[int, ...]
    """Of each problem; 0 for values."""
    rounds: tuple[int, ...]


def installed() -> tuple[Library, ...]:
    """Return the libraries that can be imported."""
    return tuple(library for library in BOOSTERS if find_spec(library))


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
    library: Library = "lightgbm",
) -> Boosted:
    """Fit one model for each target and level; an ordinal task is a regression on class numbers.

    The number of rounds is the best one on a held-out tenth of the rows; then the model is fitted
    to all rows. Raises `ValueError` if the library is not installed, or without any column.
    """
    booster = _booster(library)
    data = Data(*tree_matrix(columns, library))
    outputs = Outputs.of(competition, y, levels)
    problems = outputs.problems(y, stacked=columns.naive is not None)
    models, rounds = [], []
    for problem in problems:
        kept, held = _held_out(problem, len(y), columns.naive is not None, seed)
        best = FEW_ROUNDS
        if len(y) >= FEW_ROWS and len(held):
            part = Problem(problem.y[kept], problem.classes, problem.level)
            watched = data.take(held), problem.y[held]
            best = booster.train(data.take(kept), part, seed, threads, ROUNDS, watched)[1]
        models.append(booster.train(data, problem, seed, threads, best)[0])
        rounds.append(best)
    classes = tuple(problem.classes for problem in problems)
    return Boosted(library, outputs, tuple(models), classes, tuple(rounds))


def predict(model: Boosted, columns: Columns) -> np.ndarray:
    """Return the prediction of each row, as of `Target`."""
    booster, data = _booster(model.library), Data(*tree_matrix(columns, model.library))
    found = [
        booster.predict(each, data, classes)
        for each, classes in zip(model.models, model.classes, strict=True)
    ]
    return model.outputs.join(found, len(columns))


def save(model: Boosted, folder: Path) -> None:
    """Write boosted.json, and each model in the format of its library."""
    values = {"library": model.library, "classes": model.classes, "rounds": model.rounds}
    save_json(folder / "boosted.json", {**values, "outputs": model.outputs.to_dict()})
    booster = _booster(model.library)
    for number, each in enumerate(model.models):
        write_atomic(_path(folder, model.library, number), lambda to, m=each: booster.write(m, to))


def load(folder: Path) -> Boosted:
    """Read what `save` wrote. Raises `ValueError` if the library is not installed."""
    values = load_json(folder / "boosted.json")
    library, classes = values["library"], tuple(values["classes"])
    booster = _booster(library)
    models = tuple(booster.read(_path(folder, library, each)) for each in range(len(classes)))
    outputs = Outputs.from_dict(values["outputs"])
    return Boosted(library, outputs, models, classes, tuple(values["rounds"]))


def _booster(library: Library) -> Booster:
    if library not in installed():
        raise ValueError(f'{library} is not installed: pip install "mlx-kaggle[{library}]"')
    return BOOSTERS[library]


def _path(folder: Path, library: Library, number: int) -> Path:
    return folder / f"model-{number}.{SUFFIX[library]}"


def _held_out(
    problem: Problem, rows: int, in_time: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions to learn from, with every class, and those to count rounds on.

    Of a forecast those are the last rows, with all their steps: windows overlap.
    """
    if in_time:
        steps = len(problem.y) // rows
        last = round(rows * (1 - HELD_OUT)) * steps
        return np.arange(last), np.arange(last, rows * steps)
    counts = np.bincount(problem.y) if problem.classes else np.zeros(1)
    held_rows = max(1, round(rows * HELD_OUT))
    stratify = problem.y if counts.min() > 1 and held_rows >= problem.classes > 0 else None
    found = train_test_split(
        np.arange(rows), test_size=held_rows, random_state=seed, stratify=stratify
    )
    kept, held = np.asarray(found[0]), np.asarray(found[1])
    if problem.classes:  # a rare class must not be known from the held-out rows only
        missing = ~np.isin(problem.y[held], problem.y[kept])
        kept, held = np.append(kept, held[missing]), held[~missing]
    return kept, held
