"""How long a run will take, from a few timed updates of its own model on its own rows."""

import time
from contextlib import closing
from dataclasses import dataclass

from mlx_kaggle.batches import training_updates
from mlx_kaggle.experiment import Experiment
from mlx_kaggle.machine import sharing_cores

# Forward alone, as a share of forward, backward and update.
PREDICTION_SHARE = 0.4
TIMED = 4


@dataclass(frozen=True)
class Estimate:
    """Seconds for the whole run, and the counts behind them."""

    seconds: float
    members: int
    epochs: int
    updates_per_epoch: int
    seconds_per_update: float

    def __str__(self) -> str:
        models = f"{self.members} model{'s' if self.members > 1 else ''}"
        return (
            f"about {duration(self.seconds)} ({models} x {self.epochs} epochs x "
            f"{self.updates_per_epoch} updates of {self.seconds_per_update:.2g} s)"
        )


def estimate(
    experiment: Experiment, validation_rows: int, members: int, preparing: float
) -> Estimate:
    """Time an update of median length after a warm-up; the model trained here is thrown away.

    `preparing` is how many seconds it took to make `experiment`.
    """
    training = experiment.config.training
    start = time.perf_counter()
    rows = experiment.rows(0)
    speaking = time.perf_counter() - start
    plan = training_updates(
        rows, training.batch_size, training.micro_batch_tokens, experiment.seed, 0
    )
    tokens = [sum(each.rows * each.length for each in update) for update in plan]
    median = sorted(range(len(plan)), key=tokens.__getitem__)[len(plan) // 2]
    update = next(experiment.batches(0, start=median))
    step = experiment.step()
    with closing(step), sharing_cores(step.threads):
        first = _timed(step, update)
        second = sum(_timed(step, update) for _ in range(TIMED)) / TIMED
    shapes = {(each.rows, each.length) for batches in plan for each in batches}
    per_token = second / tokens[median]
    epoch_seconds = per_token * sum(tokens) + speaking
    # The validation rows are read once an epoch, and once a view at the end.
    readings = training.epochs + experiment.config.text.views
    share = PREDICTION_SHARE * validation_rows / len(experiment.encoded)
    compiling = min(max(first - second, 0.0), 3.0) * len(shapes)
    passes = epoch_seconds * (training.epochs + share * readings)
    whole = members * (preparing + passes + compiling)
    return Estimate(whole, members, training.epochs, len(plan), sum(tokens) / len(plan) * per_token)


def duration(seconds: float) -> str:
    """`95` as "1 min 35 s"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def _timed(step, update) -> float:
    start = time.perf_counter()
    step(update, 0.0)
    return time.perf_counter() - start
