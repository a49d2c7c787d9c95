"""Estimate the time of a run by timing a few pieces.

The pieces are preparation, updates, predictions, baselines and a figure, on at most `ROWS` rows.
Their results are discarded; their time is part of the estimate.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from mlx_kaggle import STARTED
from mlx_kaggle.job import Job, baseline_predictions, members
from mlx_kaggle.machine import sharing_cores
from mlx_kaggle.members.adversarial import MARK, mark
from mlx_kaggle.members.batches import training_updates
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.members.trees import ITERATIONS
from mlx_kaggle.report import duration, plots
from mlx_kaggle.tables.files import take

T = TypeVar("T")
# Enough rows for typical lengths and counts, few enough to be timed in seconds.
ROWS, BASELINE_ROWS, PREDICTED_ROWS = 4000, (500, 1500), (64, 320)
# Updates are timed for at least these seconds and this number.
TIMED_SECONDS, TIMED_UPDATES = 1.5, 4
# Timed iterations of gradient boosting; with fewer, a brief load distorts the result.
TIMED_ITERATIONS = 11
# Figures of a report; one is timed.
FIGURES = 6


@dataclass(frozen=True)
class Estimate:
    """Seconds of the whole command, including those elapsed, and the counts they are based on."""

    seconds: float
    members: int
    epochs: int
    updates_per_epoch: int
    seconds_per_update: float
    adversarial: str = ""
    """The cost of adversarial training, in words."""

    def __str__(self) -> str:
        models = f"{self.members} model{'s' if self.members > 1 else ''}"
        return (
            f"about {duration(self.seconds)} in total ({models} x {self.epochs} epochs x "
            f"{self.updates_per_epoch} updates of {self.seconds_per_update:.2g} s"
            f"{self.adversarial})"
        )


def estimate_run(job: Job) -> Estimate:
    """Time pieces of the first model and of the baselines."""
    config, training = job.config, job.config.training
    train_rows, val_rows = job.splits[0]
    names = members(config)
    sample = _sample_rows(train_rows, ROWS)
    scale = len(train_rows) / len(sample)
    table = take(job.table, sample)
    preparing, experiment = _timed(
        lambda: Experiment.prepare(config, job.competition, table, names[0][2])
    )
    serializing, rows = _timed(lambda: experiment.rows(0))
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
    baselines = _time_baselines(job, len(train_rows) + len(val_rows)) * len(job.splits)
    figure, _ = _timed(lambda: plots.score_bars({"a": 0.5, "b": 0.7}, job.competition.metric))
    left = len(names) * member + baselines + FIGURES * figure
    updates = -(-len(train_rows) // training.batch_size)
    return Estimate(
        time.monotonic() - STARTED + left,
        len(names),
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
    update, tracing = _time_updates(experiment, ordinary)
    if training.adversarial == "none":
        return update, update, tracing
    slow, more = _time_updates(experiment, [mark(batch) for batch in ordinary])
    share = 1 - training.adversarial_start / training.epochs
    return update, update + share * (slow - update), more + tracing * (share < 1)


def _time_updates(
    experiment: Experiment, update: list[dict[str, np.ndarray]]
) -> tuple[float, float]:
    """Return the seconds of an update, and of tracing a shape.

    Two steps are traced, because the first one also compiles kernels, once per process.
    """
    first = 0.0
    for _ in range(2):
        step = experiment.step()
        with closing(step), sharing_cores(step.threads):
            first, _ = _timed(lambda step=step: step(update, 0.0))
    times: list[float] = []
    step = experiment.step()
    with closing(step), sharing_cores(step.threads):
        step(update, 0.0)
        while len(times) < TIMED_UPDATES or (
            sum(times) < TIMED_SECONDS and len(times) < 5 * TIMED_UPDATES
        ):
            times.append(_timed(lambda: step(update, 0.0))[0])
    mean = sum(times) / len(times)
    return mean, max(first - mean, 0.0)


def _time_prediction(job: Job, experiment: Experiment, rows: int) -> float:
    """Return the seconds to predict `rows` rows once."""
    found = job.splits[0][1]

    def predict(count: int) -> float:
        table = take(job.table, _sample_rows(found, count))
        return _timed(
            lambda: predict_member(experiment.member, job.competition, table, job.config, tta=1)
        )[0]

    few, many = (min(count, rows) for count in PREDICTED_ROWS)
    predict(few)
    return _line(few, predict(few), many, predict(many) if many > few else 0.0, rows)


def _time_baselines(job: Job, rows: int) -> float:
    """Return the seconds of the baselines on one split of `rows` rows, from a few iterations."""

    def fit(count: int, iterations: int) -> float:
        some = _sample_rows(np.concatenate(job.splits[0]), count)
        train, val = np.split(np.arange(len(some)), [len(some) * 4 // 5])
        table, encoded = take(job.table, some), job.encoded[some]
        sample = replace(job, table=table, encoded=encoded, splits=[(train, val)])
        return _timed(lambda: baseline_predictions(sample, iterations))[0]

    fit(64, 1)  # starts the threads
    few, many = (min(count, rows) for count in BASELINE_ROWS)
    times = []
    for count in (few, many):
        one, several = fit(count, 1), fit(count, TIMED_ITERATIONS)
        times.append(one + max(several - one, 0.0) * (ITERATIONS - 1) / (TIMED_ITERATIONS - 1))
    return _line(few, times[0], many, times[1], rows)


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


def _timed(run: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result
