"""How fast a text network trains and predicts here: rows a second, by encoder and batch size."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_kaggle.machine import sharing_cores
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import Job, prepare_job, text_models

T = TypeVar("T")
# Updates are timed for at least these seconds and this number.
TIMED_SECONDS, TIMED_UPDATES = 1.5, 4
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Speed:
    """The speed of one network on a table; the time of the first, compiling calls is left out."""

    encoder: str
    parameters: int
    batch_size: int
    tokens_per_row: float
    """With special tokens, before padding."""
    training_rows: float
    """A second, in an update of median length."""
    predicted_rows: float
    """A second, with the serialization and the linear model."""
    peak_mib: float
    """Largest memory of MLX's arrays."""


def measure_speeds(
    configs: Sequence[RunConfig], batch_sizes: Sequence[int], rows: int
) -> Iterator[Speed]:
    """Yield the speed of each configuration with each batch size.

    At most `rows` training rows of the first fold are read, and as many are predicted.
    """
    for config in configs:
        job = prepare_job(config)
        for size in batch_sizes or [config.training.batch_size]:
            training = replace(config.training, batch_size=size)
            yield _speed(replace(job, config=replace(config, training=training)), rows)


def _speed(job: Job, rows: int) -> Speed:
    config, encoder = job.config, job.config.encoder
    table = take(job.table, job.splits[0][0][:rows])
    experiment = Experiment.prepare(config, job.competition, table, text_models(config, 0)[0][1])
    mx.reset_peak_memory()
    plan = [(sum(each["targets"].shape[0] for each in update), update)
            for update in experiment.batches(0)]  # fmt: skip
    plan.sort(key=lambda pair: sum(each["input_ids"].size for each in pair[1]))
    count, update = plan[len(plan) // 2]
    seconds, _ = time_updates(experiment, update)

    def predict() -> float:
        return timed(
            lambda: predict_member(
                experiment.member, job.competition, table, config, config.text.tta
            )
        )[0]

    predict()
    lengths = [len(ids) for ids in experiment.rows(0).ids]
    parameters: Any = tree_flatten(experiment.member.model.parameters())
    return Speed(
        encoder.path or f"scratch, {encoder.num_hidden_layers} x {encoder.hidden_size}",
        sum(array.size for _, array in parameters),
        config.training.batch_size,
        float(np.mean(lengths)),
        count / seconds,
        len(lengths) / predict(),
        mx.get_peak_memory() / MEBIBYTE,
    )


def time_updates(
    experiment: Experiment, update: list[dict[str, np.ndarray]]
) -> tuple[float, float]:
    """Return the seconds of an update, and of tracing a shape.

    Two steps are traced, because the first one also compiles kernels, once per process.
    """
    first = 0.0
    for _ in range(2):
        step = experiment.step()
        with closing(step), sharing_cores(step.threads):
            first, _ = timed(lambda step=step: step(update, 0.0))
    times: list[float] = []
    step = experiment.step()
    with closing(step), sharing_cores(step.threads):
        step(update, 0.0)
        while len(times) < TIMED_UPDATES or (
            sum(times) < TIMED_SECONDS and len(times) < 5 * TIMED_UPDATES
        ):
            times.append(timed(lambda: step(update, 0.0))[0])
    mean = sum(times) / len(times)
    return mean, max(first - mean, 0.0)


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that `run` takes, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result
