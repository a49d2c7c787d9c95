"""Estimate the time of a run: of networks and generated columns by pieces, of the rest by a table.

The pieces are preparation, updates, predictions, a score of columns and a figure, on at most `ROWS`
rows. Their results are discarded; their time is part of the estimate. After each fold a run knows
better.
"""

import time
from dataclasses import dataclass

import numpy as np

from mlx_kaggle import STARTED
from mlx_kaggle.generate.fitted import expected_seconds
from mlx_kaggle.members.adversarial import MARK, mark
from mlx_kaggle.members.batches import training_updates
from mlx_kaggle.members.catalog import KINDS, TEXT, is_text
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.members.variants import PSEUDO, base_of, variant_of
from mlx_kaggle.report import duration, plots
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.training.job import Job, text_models
from mlx_kaggle.training.pseudo_labels import can_label
from mlx_kaggle.training.speed import time_updates, timed
from mlx_kaggle.training.text_trial import needs_trial

# Enough rows for typical lengths and counts, few enough to be timed in seconds.
ROWS, PREDICTED_ROWS = 4000, (64, 320)
# Seconds to encode the columns of a fold, for each column of the table.
ENCODING = 0.05
# More seconds of the linear model for words, fixed and for each thousand training rows.
WORDS = (1.0, 3.5)
# Figures of a report; one is timed.
FIGURES = 6
# Blend and report: this share of the folds, and seconds more, without the figures. A tenth is the
# importance of columns, in processor seconds: more on a machine that others use too.
FINISHING, LEAST_FINISHING = 0.3, 5.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of the whole command, including those elapsed, and the counts they are based on."""

    seconds: float
    members: int
    """Networks."""
    epochs: int
    updates_per_epoch: int
    seconds_per_update: float
    adversarial: str = ""
    """The cost of adversarial training, in words."""

    def __str__(self) -> str:
        total = f"about {duration(self.seconds)} in total"
        if not self.members:
            return total
        models = f"{self.members} network{'s' if self.members > 1 else ''}"
        return (
            f"{total} ({models} x {self.epochs} epochs x "
            f"{self.updates_per_epoch} updates of {self.seconds_per_update:.2g} s"
            f"{self.adversarial})"
        )


def estimate_run(job: Job) -> Estimate:
    """Time pieces of the first network, and look up the other members."""
    figure, _ = timed(lambda: plots.score_points({"a": 0.5, "b": 0.7}, {}, job.competition.metric))
    left = _other_members(job) * (1 + FINISHING) + LEAST_FINISHING + FIGURES * figure
    if TEXT in job.members and not needs_trial(job):
        return _with_networks(job, left)
    return Estimate(time.monotonic() - STARTED + left, 0, 0, 0, 0.0)


def seconds_left(fold: float, folds_left: int, folds: int) -> float:
    """Return what is left of a run of `folds` folds of so many seconds each."""
    return fold * (folds_left + FINISHING * folds) + LEAST_FINISHING


def _other_members(job: Job) -> float:
    """Return the seconds of all members but the text, of all folds: usual ones, not measured."""
    thousands = len(job.splits[0][0]) / 1000
    outputs = max(job.competition.outputs, 1)
    seconds = _generating(job) + ENCODING * len(job.competition.feature_names)
    labels = any(variant_of(name) == PSEUDO for name in job.variants)
    for name in (*job.members, *job.variants):
        fixed, growing = KINDS[base_of(name)].seconds
        # A variant has about twice the rows; labels need the quick members on parts of the rows.
        times = 2 if variant_of(name) or (labels and can_label(name)) else 1
        seconds += times * (fixed + growing * thousands) * outputs**0.5
    has_text = any(column.kind == "text" for column in job.competition.schema.features)
    if "linear" in job.members and has_text:
        seconds += WORDS[0] + WORDS[1] * thousands
    return seconds * len(job.splits)


def _generating(job: Job) -> float:
    """Return the seconds to generate the columns of a fold, from a first score of them."""
    competition = job.competition
    if job.config.blend.generate != "auto" or competition.forecast:
        return 0.0
    rows = _sample_rows(job.splits[0][0], ROWS)
    table, y = take(job.table, rows), job.encoded[rows]
    scaler = Target(competition).fit_scaler(y)
    y = scaler.transform(y, table) if scaler else y
    seed = job.config.seed
    return expected_seconds(competition.schema, table, y, competition.task, seed)


def _with_networks(job: Job, others: float) -> Estimate:
    config, training = job.config, job.config.training
    train_rows, val_rows = job.splits[0]
    texts = sum(map(is_text, (TEXT, *job.variants)))
    networks = len(job.splits) * training.seeds * texts
    first = text_models(config, 0)[0][1]
    sample = _sample_rows(train_rows, ROWS)
    scale = len(train_rows) / len(sample)
    table = take(job.table, sample)
    preparing, experiment = timed(lambda: Experiment.prepare(config, job.competition, table, first))
    serializing, rows = timed(lambda: experiment.rows(0))
    plan = training_updates(
        rows, training.batch_size, training.micro_batch_tokens, experiment.seed, 0
    )
    tokens = [sum(each.rows * each.length for each in update) for update in plan]
    median = sorted(range(len(plan)), key=tokens.__getitem__)[len(plan) // 2]
    update, mean, tracing = _time_epochs(experiment, median)
    slowdown = f"; {training.adversarial} makes all updates {mean / update:.1f} times as long"
    shapes = {(each.rows, each.length) for batches in plan for each in batches}
    per_token = mean / tokens[median]
    epoch = (per_token * sum(tokens) + serializing) * scale
    # The validation rows are predicted after each epoch, and with augmentation at the end.
    predictions = training.epochs + config.text.tta
    member = preparing * scale + tracing * len(shapes) + epoch * training.epochs
    member += _time_prediction(job, experiment, len(val_rows)) * predictions
    left = networks * member + others
    updates = -(-len(train_rows) // training.batch_size)
    return Estimate(
        time.monotonic() - STARTED + left,
        networks,
        training.epochs,
        updates,
        update / tokens[median] * sum(tokens) / len(plan),
        slowdown if training.adversarial != "none" else "",
    )


def _time_epochs(experiment: Experiment, median: int) -> tuple[float, float, float]:
    """Return the seconds of the update at `median`, ordinary and on average, and of its tracing.

    Adversarial epochs have updates of their own, which are traced too.
    """
    training = experiment.config.training
    ordinary = [
        {name: array for name, array in batch.items() if name != MARK}
        for batch in next(experiment.batches(0, start=median))
    ]
    update, tracing = time_updates(experiment, ordinary)
    if training.adversarial == "none":
        return update, update, tracing
    slow, more = time_updates(experiment, [mark(batch) for batch in ordinary])
    share = 1 - training.adversarial_start / training.epochs
    return update, update + share * (slow - update), more + tracing * (share < 1)


def _time_prediction(job: Job, experiment: Experiment, rows: int) -> float:
    """Return the seconds to predict `rows` rows once."""
    found = job.splits[0][1]

    def predict(count: int) -> float:
        table = take(job.table, _sample_rows(found, count))
        return timed(
            lambda: predict_member(experiment.member, job.competition, table, job.config, tta=1)
        )[0]

    few, many = (min(count, rows) for count in PREDICTED_ROWS)
    predict(few)
    return _line(few, predict(few), many, predict(many) if many > few else 0.0, rows)


def _line(few: int, short: float, many: int, long: float, rows: int) -> float:
    """Extrapolate linearly to `rows` from two timings, or from 0 and the only timing."""
    if many <= few:
        return short * rows / few
    slope = max(long - short, 0.0) / (many - few)
    return long + slope * (rows - many)


def _sample_rows(rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) <= count:
        return rows
    return np.random.default_rng(0).choice(rows, count, replace=False)
