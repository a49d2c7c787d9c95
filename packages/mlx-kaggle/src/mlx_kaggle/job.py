"""One run's input and outcome: the tables understood, checked and split; what was found."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_kaggle.config import RunConfig
from mlx_kaggle.errors import DataError
from mlx_kaggle.tables.checks import (
    check_columns,
    check_ids,
    check_overlap,
    feature_names,
    row_hashes,
)
from mlx_kaggle.tables.competition import (
    Competition,
    find_beside_train,
    read_tables,
    understand,
)
from mlx_kaggle.tables.folds import Split, rare_classes, split_rows
from mlx_kaggle.tables.targets import Target, side_metrics
from mlx_kaggle.tables.task import with_target
from mlx_tabtext import Table


@dataclass
class Job:
    """The tables read, understood, checked and split."""

    config: RunConfig
    competition: Competition
    table: Table
    encoded: np.ndarray
    splits: list[Split]
    notes: list[str]
    rows: np.ndarray
    """The position of each row in its file: rows without a target are left out of the table."""

    @property
    def scored_rows(self) -> np.ndarray:
        """Row positions that some fold validates, in fold order."""
        return np.concatenate([val for _, val in self.splits])


@dataclass
class Results:
    """What a finished run found, as the report and the command line show it."""

    job: Job
    prediction: np.ndarray
    scores: dict[str, dict[str, float]]
    fold_scores: list[float]
    histories: dict[str, list[dict[str, Any]]]
    seconds: float

    @property
    def score(self) -> float:
        """The competition's metric over all scored rows."""
        return self.scores["mlx-kaggle"][self.job.competition.metric]


def prepare_job(config: RunConfig) -> Job:
    """Read, understand and check the tables; raises `DataError` with one line otherwise."""
    data = config.data
    tables = read_tables(data)
    competition = understand(data, tables)
    notes = [*tables.notes, *competition.notes]
    names = feature_names(competition)
    train_rows = row_hashes(tables.train, names)
    if competition.id_column:
        check_ids(tables.train[competition.id_column], data.train, competition.id_column)
    test_file = find_beside_train(data)["test"]
    for table, path in ((tables.val, data.val), (tables.test, test_file)):
        if table is None:
            continue
        notes += check_columns(competition, table, str(path))
        others = row_hashes(table, names)
        notes += filter(
            None, [check_overlap(train_rows, others, str(path), data.train, data.allow_leak)]
        )
    train, rows, _ = with_target(tables.train, data.target, data.train)
    encoded = Target(competition, data.train).encode(train[data.target], rows)
    if tables.val is None:
        splits = split_rows(
            encoded, competition.task, config.folds, config.val_fraction, config.seed
        )
        if competition.classes:
            notes += rare_classes(encoded, competition.classes, config.folds)
        return Job(config, competition, train, encoded, splits, notes, rows)
    if config.folds:
        raise DataError("give --val or --folds, not both: folds validate on the training rows")
    if data.target not in tables.val:
        raise DataError(f"{data.val}: no target column {data.target!r}; validation needs answers")
    val, val_rows, left_out = with_target(tables.val, data.target, str(data.val))
    notes += left_out
    val_encoded = Target(competition, str(data.val)).encode(val[data.target], val_rows)
    # Columns that no model reads may be missing from it.
    nothing = [None] * len(val_rows)
    table = {name: [*cells, *val.get(name, nothing)] for name, cells in train.items()}
    split = (np.arange(len(rows)), np.arange(len(rows), len(rows) + len(val_rows)))
    encoded, rows = np.append(encoded, val_encoded), np.append(rows, val_rows)
    return Job(config, competition, table, encoded, [split], notes, rows)


def members(config: RunConfig) -> list[tuple[str, int, int]]:
    """(name, fold, seed) of every model of the run; without folds there is one split."""
    return [
        (f"fold-{fold}-seed-{seed}", fold, config.seed + 1000 * seed + fold)
        for fold in range(config.folds or 1)
        for seed in range(config.training.seeds)
    ]


def score_table(job: Job, predictions: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Every metric of every prediction of the scored rows."""
    target, truth = Target(job.competition), job.encoded[job.scored_rows]
    names = [job.competition.metric, *side_metrics(job.competition)]
    return {
        model: {name: target.score(truth, prediction, name) for name in names}
        for model, prediction in predictions.items()
    }
