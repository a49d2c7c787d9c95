"""LightGBM, XGBoost or CatBoost on numbers, native categories and components of words."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_kaggle.members.boosted_libraries import (
    LARGE,
    ROUNDS,
    Booster,
    CatBoost,
    Data,
    LightGBM,
    XGBoost,
)
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.options import NO_OPTIONS, Option, positive, share
from mlx_kaggle.members.outputs import Levels, Outputs, Problem, tree_matrix
from mlx_kaggle.members.saved import load_json, save_json
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence, split_inside
from mlx_kaggle.tables.splits import Split
from mlx_trainer import write_atomic
from mlx_trainer.settings import Range

Library = Literal["lightgbm", "xgboost", "catboost"]
BOOSTERS: dict[Library, Booster] = {
    "lightgbm": LightGBM(),
    "xgboost": XGBoost(),
    "catboost": CatBoost(),
}
SUFFIX = {"lightgbm": "txt", "xgboost": "json", "catboost": "cbm"}
# Models of a bag, each stopped on another fifth of the rows. Out of fold, beside one model with the
# rounds that a tenth of the rows chose: log loss of titanic 0.400 and 0.411 (LightGBM), 0.402 and
# 0.418 (XGBoost), 0.401 and 0.417 (CatBoost); RMSE of the logarithm of house-prices 0.1234 and
# 0.1255, 0.1214 and 0.1227, 0.1211 and 0.1225. Five seeds of that one model gain a third of it.
BAG = 5
# The share of training rows that chooses the rounds of a large table, or of a forecast.
HELD_OUT = 0.1
# By library, in its own names. Held-out rows choose the rounds.
OPTIONS: dict[Library, dict[str, Option]] = {
    "lightgbm": {
        "learning_rate": positive(0.01, 0.2),
        "num_leaves": Option(4, 64, True, Range(at_least=2)),
        "feature_fraction": share(0.2, 1.0),
        "bagging_fraction": share(0.5, 1.0),
        "min_data_in_leaf": positive(2, 60),
        "lambda_l2": Option(0.01, 30.0, True, Range(at_least=0)),
    },
    "xgboost": {
        "learning_rate": positive(0.01, 0.2),
        "max_depth": positive(2, 10, log=False),
        "colsample_bytree": share(0.2, 1.0),
        "subsample": share(0.5, 1.0),
        "min_child_weight": Option(0.5, 30.0, True, Range(at_least=0)),
        "lambda": Option(0.01, 30.0, True, Range(at_least=0)),
    },
    "catboost": {
        "learning_rate": positive(0.01, 0.2),
        "depth": Option(3, 9, allowed=Range(at_least=1, at_most=16)),
        "l2_leaf_reg": Option(0.1, 30.0, True, Range(at_least=0)),
        "random_strength": Option(0.1, 5.0, True, Range(at_least=0)),
    },
}
# Fewer rows say nothing about rounds.
FEW_ROWS, FEW_ROUNDS = 50, 100


@dataclass(frozen=True)
class Boosted:
    """A bag of models of a library for each problem of `outputs`; it predicts their mean."""

    library: Library
    outputs: Outputs
    bags: tuple[tuple[Any, ...], ...]
    classes: tuple[int, ...]
    """Of each problem; 0 for values."""
    rounds: tuple[tuple[int, ...], ...]
    """Of each model of each problem."""


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
    options: Mapping[str, Any] = NO_OPTIONS,
) -> Boosted:
    """Fit a bag for each target and level; an ordinal task is a regression on class numbers.

    Each model of a bag leaves out another fifth of the rows, and stops when these have not gained
    for a while. A forecast, a table with times, and one of `LARGE` rows have one model: a tenth of
    the rows chooses its rounds, and it is fitted to all. Raises `ValueError` if the library is not
    installed, or without any column.
    """
    booster = replace(_booster(library), options=options)
    data = Data(*tree_matrix(columns, library))
    outputs = Outputs.of(competition, y, levels)
    in_time = columns.naive is not None
    problems = outputs.problems(y, stacked=in_time)
    bags, rounds = [], []
    for problem in problems:
        splits = _splits(problem, len(y), in_time, seed, columns.dependence)
        found = _train_bag(booster, data, problem, splits, seed, threads)
        if len(found) < 2:
            best = found[0][1] if found else FEW_ROUNDS
            found = [booster.train(data, problem, seed, threads, best)]
        bags.append(tuple(model for model, _ in found))
        rounds.append(tuple(best for _, best in found))
    classes = tuple(problem.classes for problem in problems)
    return Boosted(library, outputs, tuple(bags), classes, tuple(rounds))


def _train_bag(
    booster: Booster, data: Data, problem: Problem, splits: list[Split], seed: int, threads: int
) -> list[tuple[Any, int]]:
    """Return a model for each split, stopped on its held-out rows, and its rounds.

    Each model of several has one thread: a round of a small table is too short to share. On
    house-prices five models of LightGBM took 4.5 s with one thread each, and 11.6 s with two.
    """
    each = 1 if len(splits) > 1 else threads

    def train(number: int) -> tuple[Any, int]:
        kept, held = splits[number]
        part = Problem(problem.y[kept], problem.classes, problem.level)
        watched = data.take(held), problem.y[held]
        return booster.train(data.take(kept), part, seed + number, each, ROUNDS, watched)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(train, range(len(splits))))


def predict(model: Boosted, columns: Columns) -> np.ndarray:
    """Return the prediction of each row, as of `Target`."""
    booster, data = _booster(model.library), Data(*tree_matrix(columns, model.library))
    found = [
        np.mean([booster.predict(each, data, classes) for each in bag], axis=0)
        for bag, classes in zip(model.bags, model.classes, strict=True)
    ]
    return model.outputs.join(found, len(columns))


def save(model: Boosted, folder: Path) -> None:
    """Write boosted.json, and each model in the format of its library."""
    values = {"library": model.library, "classes": model.classes, "rounds": model.rounds}
    save_json(folder / "boosted.json", {**values, "outputs": model.outputs.to_dict()})
    booster = _booster(model.library)
    for problem, bag in enumerate(model.bags):
        for number, each in enumerate(bag):
            path = _path(folder, model.library, problem, number)
            write_atomic(path, lambda to, m=each: booster.write(m, to))


def load(folder: Path) -> Boosted:
    """Read what `save` wrote. Raises `ValueError` if the library is not installed."""
    values = load_json(folder / "boosted.json")
    library, classes = values["library"], tuple(values["classes"])
    booster = _booster(library)
    rounds = tuple(tuple(each) for each in values["rounds"])
    bags = tuple(
        tuple(booster.read(_path(folder, library, problem, each)) for each in range(len(bag)))
        for problem, bag in enumerate(rounds)
    )
    outputs = Outputs.from_dict(values["outputs"])
    return Boosted(library, outputs, bags, classes, rounds)


def _booster(library: Library) -> Booster:
    if library not in installed():
        raise ValueError(f'{library} is not installed: pip install "mlx-kaggle[{library}]"')
    return BOOSTERS[library]


def _path(folder: Path, library: Library, problem: int, number: int) -> Path:
    return folder / f"model-{problem}-{number}.{SUFFIX[library]}"


def _splits(
    problem: Problem,
    rows: int,
    in_time: bool,
    seed: int,
    dependence: Dependence | None = None,
) -> list[Split]:
    """Return positions to learn from, with every class, and those to stop on: none, one or five.

    Of a forecast the latter are the last rows, with all their steps: windows overlap.
    """
    if rows < FEW_ROWS:
        return []
    if in_time:
        steps = len(problem.y) // rows
        last = round(rows * (1 - HELD_OUT)) * steps
        return [(np.arange(last), np.arange(last, rows * steps))]
    if problem.classes:
        counts = np.bincount(problem.y)
        if counts[counts > 1].sum() < BAG:  # nearly every row has a class of its own
            return []
    task = "multiclass" if problem.classes else "regression"
    # A bag of models that stop on later rows would not have learned from the last ones.
    bag = BAG if rows < LARGE and not (dependence and dependence.kind == "time") else 0
    splits = split_inside(dependence, problem.y, task, bag, HELD_OUT, seed)
    return [_every_class(kept, held, problem) for kept, held in splits]


def _every_class(kept: np.ndarray, held: np.ndarray, problem: Problem) -> Split:
    """Move held-out rows of a class that has no others to those that are learned from."""
    if not problem.classes:
        return kept, held
    missing = ~np.isin(problem.y[held], problem.y[kept])
    return np.append(kept, held[missing]), held[~missing]
