"""How long a run will take, from a few timed pieces of it on its own rows.

Timed are the fit of text and linear model, updates, predictions, baselines and a figure, on at most
`ROWS` rows; what is thrown away here took part of the time that the whole command takes.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mlx_kaggle import STARTED
from mlx_kaggle.job import Job, members
from mlx_kaggle.machine import sharing_cores
from mlx_kaggle.members.baseline import ITERATIONS, baseline_predictions
from mlx_kaggle.members.batches import training_updates
from mlx_kaggle.members.experiment import Experiment, predict_member
from mlx_kaggle.report import plots
from mlx_kaggle.tables.task import take

T = TypeVar("T")
# Enough rows for lengths and counts to be typical; more would take longer to time than to tell.
ROWS, BASELINE_ROWS, PREDICTED_ROWS = 4000, (500, 1500), (64, 320)
# Updates are timed for so long, but some of them in any case (seconds, updates).
TIMED_SECONDS, TIMED = 1.5, 4
# Iterations of the gradient boosting; fewer would make much of a moment of other load.
GROWN = 11
# Figures of a report, of which one is timed.
FIGURES = 6


@dataclass(frozen=True)
class Estimate:
    """Seconds of the whole command, those gone by included, and the counts behind them."""

    seconds: float
    members: int
    epochs: int
    updates_per_epoch: int
    seconds_per_update: float

    def __str__(self) -> str:
        models = f"{self.members} model{'s' if self.members > 1 else ''}"
        return (
            f"about {duration(self.seconds)} in all ({models} x {self.epochs} epochs x "
            f"{self.updates_per_epoch} updates of {self.seconds_per_update:.2g} s)"
        )


def estimate_run(job: Job) -> Estimate:
    """Time pieces of the first model and of the baselines; what is trained here is thrown away."""
    config, training = job.config, job.config.training
    train_rows, val_rows = job.splits[0]
    names = members(config)
    sample = _some(train_rows, ROWS)
    scale = len(train_rows) / len(sample)
    table = take(job.table, sample)
    preparing, experiment = _timed(
        lambda: Experiment.prepare(config, job.competition, table, names[0][2])
    )
    speaking, rows = _timed(lambda: experiment.rows(0))
    plan = training_updates(
        rows, training.batch_size, training.micro_batch_tokens, experiment.seed, 0
    )
    tokens = [sum(each.rows * each.length for each in update) for update in plan]
    median = sorted(range(len(plan)), key=tokens.__getitem__)[len(plan) // 2]
    update, tracing = _time_updates(experiment, median)
    shapes = {(each.rows, each.length) for batches in plan for each in batches}
    per_token = update / tokens[median]
    epoch = (per_token * sum(tokens) + speaking) * scale
    # The validation rows are read once an epoch, and once a view at the end.
    each_reading = _time_reading(job, experiment, len(val_rows))
    readings = training.epochs + (config.text.views if config.text.views > 1 else 1)
    member = preparing * scale + tracing * len(shapes) + epoch * training.epochs
    member += each_reading * readings
    baselines = _time_baselines(job, len(train_rows) + len(val_rows)) * len(job.splits)
    figure, _ = _timed(lambda: plots.score_bars({"a": 0.5, "b": 0.7}, job.competition.metric))
    left = len(names) * member + baselines + FIGURES * figure
    updates = -(-len(train_rows) // training.batch_size)
    return Estimate(
        time.monotonic() - STARTED + left,
        len(names),
        training.epochs,
        updates,
        per_token * sum(tokens) / len(plan),
    )


def _time_updates(experiment: Experiment, median: int) -> tuple[float, float]:
    """Seconds of the update at `median`, and of tracing the first one of a shape.

    The first step compiles kernels, which those after it find in the process's memory.
    """
    update = next(experiment.batches(0, start=median))
    first = 0.0
    for _ in range(2):
        step = experiment.step()
        with closing(step), sharing_cores(step.threads):
            first, _ = _timed(lambda step=step: step(update, 0.0))
    again = []
    step = experiment.step()
    with closing(step), sharing_cores(step.threads):
        step(update, 0.0)
        while len(again) < TIMED or (sum(again) < TIMED_SECONDS and len(again) < 5 * TIMED):
            again.append(_timed(lambda: step(update, 0.0))[0])
    mean = sum(again) / len(again)
    return mean, max(first - mean, 0.0)


def _time_reading(job: Job, experiment: Experiment, rows: int) -> float:
    """Seconds to predict `rows` rows, one view: what a call and a row take."""
    found = job.splits[0][1]

    def predict(count: int) -> float:
        table = take(job.table, _some(found, count))
        return _timed(
            lambda: predict_member(experiment.member, job.competition, table, job.config, views=1)
        )[0]

    few, many = (min(count, rows) for count in PREDICTED_ROWS)
    predict(few)
    return _line(few, predict(few), many, predict(many) if many > few else 0.0, rows)


def _time_baselines(job: Job, rows: int) -> float:
    """Seconds of the baselines on one split of `rows` rows; trees are alike, so few are grown."""

    def fit(count: int, iterations: int) -> float:
        some = _some(np.concatenate(job.splits[0]), count)
        split = (np.arange(len(some) * 4 // 5), np.arange(len(some) * 4 // 5, len(some)))
        table, encoded = take(job.table, some), job.encoded[some]
        return _timed(
            lambda: baseline_predictions(job.competition, table, encoded, [split], 0, iterations)
        )[0]

    fit(64, 1)  # starts the threads
    few, many = (min(count, rows) for count in BASELINE_ROWS)
    times = []
    for count in (few, many):
        one, several = fit(count, 1), fit(count, GROWN)
        times.append(one + max(several - one, 0.0) * (ITERATIONS - 1) / (GROWN - 1))
    return _line(few, times[0], many, times[1], rows)


def _line(few: int, short: float, many: int, long: float, rows: int) -> float:
    """Where the line through two timings, or through 0 and the only one, is at `rows`."""
    if many <= few:
        return short * rows / few
    slope = max(long - short, 0.0) / (many - few)
    return long + slope * (rows - many)


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) <= count:
        return rows
    return np.random.default_rng(0).choice(rows, count, replace=False)


def duration(seconds: float) -> str:
    """`95` as "1 min 35 s"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def _timed(run: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result
