"""The input of a run: tables read, inferred, checked and split, and the members to train."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.members.catalog import TEXT, choose_members
from mlx_kaggle.members.objective import objective_of, quantile_levels
from mlx_kaggle.members.variants import choose_variants
from mlx_kaggle.prediction.decision import THRESHOLD_METRICS, cross_fit, parts_of
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.columns import check_columns, check_has_targets, prose_columns
from mlx_kaggle.tables.competition import CLASS_TASKS, VALUE_TASKS, Competition
from mlx_kaggle.tables.dependence import Dependence, notes_on_splits
from mlx_kaggle.tables.files import (
    Tables,
    drop_unlabelled,
    find_companion_files,
    index_ids,
    read_tables,
    row_count,
)
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.schemes import divide, propose
from mlx_kaggle.tables.splits import Split, check_overlap, rare_classes, row_hashes
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.training.prepare_forecast import prepare_windows
from mlx_tabtext import Table
from mlx_trainer import ConfigError

RANKING = ("roc_auc", "average_precision")
# The losses of mlx-heads that predict an interval.
INTERVAL_LOSSES = ("gaussian_nll", "beta_nll", "quantile")


@dataclass
class Job:
    """A competition, its rows with a target, and their splits."""

    config: RunConfig
    competition: Competition
    table: Table
    encoded: np.ndarray
    splits: Sequence[Split]
    notes: list[str]
    rows: np.ndarray
    """Positions in the files of the rows of `table`; rows without a target are dropped."""
    history: Table | None = None
    """The rows that a forecast starts from."""
    test: Table | None = None
    """The rows to predict, if they are known: generated columns look at the groups they share."""
    dependence: Dependence | None = None
    """The group or time of each row of `table`, if they divide the folds."""
    members: list[str] = field(default_factory=list)
    """The names of the members to train, in this order."""
    variants: list[str] = field(default_factory=list)
    """Of members, such as trees+pseudo: measured beside them."""
    kept: dict[int, Any] | None = None
    """Of a trial of a study: the columns of folds, kept for the next ones; models are not saved."""

    @cached_property
    def prose(self) -> list[str]:
        """The columns of sentences."""
        return prose_columns(self.competition.schema, self.table)

    @property
    def parts(self) -> list[np.ndarray]:
        """The folds, or five parts of the only validation set, as positions of the scored rows."""
        in_time = self.competition.task == "forecast"
        sizes = [len(val) for _, val in self.splits]
        return parts_of(sizes, in_time, self.config.seed, self.dependence_of(self.scored_rows))

    @property
    def scored_rows(self) -> np.ndarray:
        """The row positions that some fold validates, in fold order."""
        return np.concatenate([val for _, val in self.splits])

    def dependence_of(self, rows: np.ndarray) -> Dependence | None:
        """Return the group or time of some rows, by position in the table."""
        return self.dependence[rows] if self.dependence else None

    @property
    def levels(self) -> tuple[float, float] | None:
        """Quantiles of the bounds of predicted intervals; `None` if the loss predicts none."""
        if self.config.loss.name not in INTERVAL_LOSSES:
            return None
        lower, _, upper = quantile_levels(self.config)
        return lower, upper

    def decide(self, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Calibrate a prediction of the scored rows and choose labels, each part by the others."""
        config, truth = self.config, self.encoded[self.scored_rows]
        coverage = config.loss.coverage
        return cross_fit(self.competition, config.decision, truth, prediction, self.parts, coverage)

    def decided_scores(
        self, trained: np.ndarray, decided: tuple[np.ndarray, np.ndarray | None]
    ) -> dict[str, float]:
        """Return every metric of a prediction of the scored rows; `decided` is its `decide`.

        Metrics of the order of rows are those before it: the calibration of new rows is one
        increasing map of each column, but here the parts have different maps.
        """
        scores, before = self.scores(*decided), self.scores(trained)
        return scores | {name: before[name] for name in scores if self.ranks_rows(name)}

    def ranks_rows(self, metric: str) -> bool:
        """Whether a metric of one class or label depends only on the order of rows."""
        return metric in RANKING and self.competition.task in ("binary", "multilabel")

    def score_rows(
        self, rows: np.ndarray, prediction: np.ndarray, codes: np.ndarray | None = None
    ) -> float:
        """Return the metric of the competition of rows by position in the table."""
        target = Target(self.competition)
        errors = target.naive_errors(self.table)
        scale = None if errors is None else errors[rows]
        return target.score(self.encoded[rows], prediction, codes=codes, scale=scale)

    def scores(self, prediction: np.ndarray, codes: np.ndarray | None = None) -> dict[str, float]:
        """Return every metric of a prediction of the scored rows."""
        rows, target = self.scored_rows, Target(self.competition)
        errors = target.naive_errors(self.table)
        scale = None if errors is None else errors[rows]
        return target.scores(self.encoded[rows], prediction, codes, scale)


def prepare_job(config: RunConfig) -> Job:
    """Read, infer, check and split the tables. Raises `DataError` if they do not fit."""
    data = config.data
    tables = read_tables(data)
    if data.task == "forecast":
        found = prepare_windows(config, tables)
        _check_loss(config, found.competition)
        notes = [*tables.notes, *found.competition.notes]
        job = Job(config, found.competition, found.table, found.encoded, found.splits, notes,
                  found.rows, found.history)  # fmt: skip
        return _with_members(job)
    competition = infer_competition(data, tables)
    _check_loss(config, competition)
    notes = [*tables.notes, *competition.notes, *_check_tables(config, competition, tables)]
    table, rows, _ = drop_unlabelled(
        tables.train, competition.targets, data.train, competition.task
    )
    encoded = Target(competition, data.train).encode(table, rows)
    job = Job(config, competition, table, encoded, [], notes, rows, test=tables.test)
    if tables.val is not None:
        _add_validation(job, tables.val, str(data.val))
    else:
        count = row_count(tables.train)
        where = rows, count, data.train, config.fold_count, config.val_fraction, config.seed
        found = divide(config.cv, competition, table, encoded, *where)
        job.splits, job.dependence, more = found
        notes += more
        name = config.cv.group or config.cv.time or ""
        how = job.dependence, encoded, competition.task, job.splits, name, config.seed
        notes += notes_on_splits(*how)
        if config.cv.scheme == "auto":
            notes += propose(competition, table, encoded, tables.test, config.seed)
        if competition.classes:
            notes += rare_classes(encoded, competition.classes, config.fold_count)
    return _with_members(job)


def with_config(job: Job, config: RunConfig) -> Job:
    """Return a job with other settings of its members, and the same rows and folds."""
    _check_loss(config, job.competition)
    return replace(job, config=config)


def _with_members(job: Job) -> Job:
    rows = len(job.splits[0][0])
    job.members, notes = choose_members(job.config, job.competition, job.levels, rows)
    depends = job.dependence.kind if job.dependence else ""
    how = job.config, job.competition, job.members, job.test, depends
    job.variants, more = choose_variants(*how)
    job.notes += [*notes, *more]
    return job


def _check_loss(config: RunConfig, competition: Competition) -> None:
    """Refuse a loss, or an option of it, that the task does not have."""
    try:
        objective = objective_of(config, competition)
    except ValueError as error:
        raise ConfigError(f"loss.name: {error}") from None
    task, classes = competition.task, competition.task in CLASS_TASKS
    settings, metric = config.decision, competition.metric
    if task in VALUE_TASKS and settings.calibration not in ("temperature", "none"):
        raise ConfigError(f"decision.calibration is for probabilities, but the task is {task}")
    fitted = THRESHOLD_METRICS.get(task, ())
    if settings.thresholds == "fit" and metric not in fitted:
        known = f"; of {task} they are for {', '.join(fitted)}" if fitted else f"; {task} has none"
        raise ConfigError(f"decision.thresholds cannot be fitted to the metric {metric}{known}")
    if config.loss.r_drop and objective.name in INTERVAL_LOSSES:
        raise ConfigError(
            f"loss.r_drop is for classes, labels and values, but the loss {objective.name} "
            f"predicts intervals"
        )
    weighted = classes or (task == "multilabel" and objective.name == "cross_entropy")
    if config.loss.class_weights != "none" and not weighted:
        raise ConfigError(
            f"loss.class_weights is for classes, and for labels with the loss cross_entropy, but "
            f"the task is {task} and the loss {objective.name}"
        )


def _check_tables(config: RunConfig, competition: Competition, tables: Tables) -> list[str]:
    """Check ids, and columns and leaks of validation and test table; return notes."""
    data, names, notes = config.data, competition.feature_names, []
    train = row_hashes(tables.train, names)
    if competition.id_column:
        index_ids([tables.train[competition.id_column]], [competition.id_column], data.train)
    for table, path in (
        (tables.val, str(data.val)),
        (tables.test, str(find_companion_files(data)["test"])),
    ):
        if table is not None:
            notes += check_columns(competition, table, path)
            note = check_overlap(train, row_hashes(table, names), path, data.train, data.allow_leak)
            notes += [note] if note else []
    return notes


def _add_validation(job: Job, val: Table, file: str) -> None:
    """Append the rows of a validation table, and validate on them."""
    competition = job.competition
    if job.config.fold_count:
        raise DataError("give --val or --folds, not both: folds validate on the training rows")
    check_has_targets(competition, val, file, "validation needs answers")
    val, rows, notes = drop_unlabelled(val, competition.targets, file, competition.task)
    encoded = Target(competition, file).encode(val, rows)
    count = len(job.rows)
    job.notes += notes
    # Columns that no model reads may be missing.
    nothing = [None] * len(rows)
    job.table = {name: [*cells, *val.get(name, nothing)] for name, cells in job.table.items()}
    job.splits = [(np.arange(count), np.arange(count, count + len(rows)))]
    job.encoded = np.concatenate([job.encoded, encoded])
    job.rows = np.append(job.rows, rows)


def text_models(config: RunConfig, fold: int, name: str = TEXT) -> list[tuple[str, int]]:
    """Return the folder name and seed of every network of a fold, of the text or a variant."""
    end = name.removeprefix(TEXT)
    return [
        (f"fold-{fold}-seed-{number}{end}", config.seed + 1000 * number + fold)
        for number in range(config.training.seeds)
    ]
