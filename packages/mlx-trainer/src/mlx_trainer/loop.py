"""A short loop over `TrainStep`: schedule, evaluation, early stopping, checkpoints, resume."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_trainer import distributed
from mlx_trainer.checkpoints import CheckpointError, Checkpoints
from mlx_trainer.schedules import Schedule, warmup_cosine
from mlx_trainer.signals import Stopped
from mlx_trainer.step import Batch, TrainStep

logger = logging.getLogger(__name__)

Batches = Callable[[int, int], Iterator[Sequence[Batch]]]
Report = Callable[[dict[str, object]], object]


@dataclass(frozen=True)
class Evaluation:
    """How to choose the best epoch: `evaluate(model, epoch)` returns metrics by name.

    It is called in evaluation mode after every `every` epochs and after the last. Training stops
    early after `patience` evaluations in a row without a better `monitor`; 0 disables this. NaN is
    never better.
    """

    evaluate: Callable[[nn.Module, int], dict[str, float]]
    monitor: str
    greater_is_better: bool
    every: int = 1
    patience: int = 0
    restore_best: bool = True


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`: a history entry per epoch (epoch, train_loss, metrics), from epoch 0."""

    history: list[dict]
    best_score: float | None
    best_epoch: int | None
    epochs_run: int
    stopped_early: bool


@dataclass
class _Position:
    """The position of the loop: the state that a resumed run needs besides the arrays."""

    updates_per_epoch: int
    epoch: int = 0
    update: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    history: list[dict] = field(default_factory=list)
    best_score: float | None = None
    best_epoch: int | None = None
    without_improvement: int = 0
    stopped_early: bool = False


def fit(
    step: TrainStep,
    batches: Batches,
    updates_per_epoch: int,
    *,
    epochs: int,
    learning_rate: float,
    schedule: Schedule | None = None,
    evaluation: Evaluation | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    report: Report | None = None,
    stopping: Callable[[], int] | None = None,
) -> FitResult:
    """Train for `epochs`; with `evaluation` the model ends with its best weights.

    `batches(epoch, start)` yields the updates of an epoch from update `start` on, each a list of
    micro-batches; every call must yield the same ones. `schedule` defaults to `warmup_cosine(0.1)`.
    `report` is called on rank zero with a dict for each event ("resume", "update", "evaluation",
    "checkpoint", "end").

    With `checkpoints` the state is saved at the end of every epoch and whenever one is due. A
    killed run that is resumed with `resume=True` ends with the same weights as an uninterrupted
    one, bit for bit, if model, data and `evaluate` depend only on their arguments and MLX's random
    state. `stopping` is the function yielded by `stop_requested`: once it returns a signal, the
    state is saved and `Stopped` raised. "examples_per_second" is the weight of updates per second.
    """
    schedule = schedule or warmup_cosine(0.1)
    report = report if report and distributed.rank() == 0 else _ignore
    best = _Best(step.model, checkpoints)
    position = _start(step, updates_per_epoch, checkpoints, resume, report)
    while position.epoch < epochs and not position.stopped_early:
        step.model.train()
        started = time.perf_counter()
        for update in _updates(batches, position):
            done = position.epoch * updates_per_epoch + position.update
            rate = learning_rate * schedule(done, epochs * updates_per_epoch)
            event = _train_one(step, update, rate, position)
            speed = step.weight / (time.perf_counter() - started)  # data loading included
            report({"event": "update", **event, "examples_per_second": speed})
            within = position.update < updates_per_epoch
            stop = stopping() if stopping and within else 0
            # At the end of an epoch the state is saved only after the evaluation.
            if within and checkpoints and (stop or checkpoints.due(step.updates)):
                _save(step, checkpoints, position, report)
            if stop:
                raise Stopped(stop, _describe_checkpoint(step, checkpoints))
            started = time.perf_counter()
        _end_epoch(step, evaluation, position, epochs, best, report)
        if checkpoints:
            _save(step, checkpoints, position, report)
        stop = stopping() if stopping else 0
        if stop and position.epoch < epochs:
            raise Stopped(stop, _describe_checkpoint(step, checkpoints))
    if evaluation and evaluation.restore_best and position.best_epoch is not None:
        best.restore()
    result = FitResult(
        history=position.history,
        best_score=position.best_score,
        best_epoch=position.best_epoch,
        epochs_run=position.epoch,
        stopped_early=position.stopped_early,
    )
    report({"event": "end", "updates": step.updates, **asdict(result)})
    return result


def _start(
    step: TrainStep,
    updates_per_epoch: int,
    checkpoints: Checkpoints | None,
    resume: bool,
    report: Report,
) -> _Position:
    if updates_per_epoch < 1:
        raise ValueError(f"updates_per_epoch must be at least 1, got {updates_per_epoch}")
    if resume and not checkpoints:
        raise ValueError("resume=True needs checkpoints")
    found = checkpoints.latest() if checkpoints else None
    if found and not resume:
        raise ValueError(f"{found} exists; pass resume=True to continue, or another folder")
    position = _Position(updates_per_epoch)
    if checkpoints and found:
        position = _load_position(step, checkpoints, found, updates_per_epoch)
    if resume:
        # Reported even without a checkpoint: then all lines of the killed run must be dropped.
        report({"event": "resume", "epoch": position.epoch, "updates": step.updates})
    return position


def _load_position(
    step: TrainStep, checkpoints: Checkpoints, found: Path, updates_per_epoch: int
) -> _Position:
    saved = checkpoints.load(step)
    try:
        position = _Position(**saved)  # type: ignore[arg-type]
    except TypeError as error:
        raise CheckpointError(f"{found} was not saved by fit: {error}") from error
    if position.updates_per_epoch != updates_per_epoch:
        raise CheckpointError(
            f"{found} was saved with {position.updates_per_epoch} updates per epoch, "
            f"this run has {updates_per_epoch}: data or batch size differ"
        )
    return position


def _updates(batches: Batches, position: _Position) -> Iterator[Sequence[Batch]]:
    """Yield the remaining updates of the epoch; raise unless it has `updates_per_epoch`."""
    expected = position.updates_per_epoch - position.update
    count = 0
    for update in batches(position.epoch, position.update):
        count += 1
        if count > expected:
            break
        yield update
    if count != expected:
        raise ValueError(
            f"batches({position.epoch}, {position.updates_per_epoch - expected}) yielded "
            f"{'more' if count > expected else count} updates, expected {expected}: "
            f"updates_per_epoch is {position.updates_per_epoch}"
        )


def _train_one(
    step: TrainStep, update: Sequence[Batch], rate: float, position: _Position
) -> dict[str, object]:
    loss, grad_norm = step(update, rate)
    event: dict[str, object] = {
        "epoch": position.epoch,
        "update": position.update,
        "updates": step.updates,
        "loss": float(loss),
        "learning_rate": rate,
        "grad_norm": float(grad_norm),
    }
    position.update += 1
    position.loss_sum += float(loss) * step.weight
    position.weight_sum += step.weight
    return event


def _end_epoch(
    step: TrainStep,
    evaluation: Evaluation | None,
    position: _Position,
    epochs: int,
    best: "_Best",
    report: Report,
) -> None:
    """Evaluate if due, keep the best weights, decide on early stopping, move to the next epoch."""
    epoch = position.epoch
    entry: dict = {"epoch": epoch, "train_loss": position.loss_sum / position.weight_sum}
    if evaluation and ((epoch + 1) % evaluation.every == 0 or epoch + 1 == epochs):
        step.model.eval()
        metrics = evaluation.evaluate(step.model, epoch)
        entry |= {name: float(value) for name, value in metrics.items()}
        score = _score(evaluation, entry)
        if _is_better(score, position.best_score, evaluation.greater_is_better):
            best.keep()
            position.best_score, position.best_epoch = score, epoch
            position.without_improvement = 0
        else:
            position.without_improvement += 1
        patience = evaluation.patience
        position.stopped_early = 0 < patience <= position.without_improvement
    report({"event": "evaluation", "updates": step.updates, **entry})
    position.history.append(entry)
    position.epoch, position.update = epoch + 1, 0
    position.loss_sum = position.weight_sum = 0.0


def _score(evaluation: Evaluation, entry: dict) -> float:
    if evaluation.monitor not in entry:
        raise KeyError(
            f"evaluate did not return {evaluation.monitor!r} to monitor, but {sorted(entry)}"
        )
    if math.isnan(entry[evaluation.monitor]):
        logger.warning("epoch %d: %s is NaN", entry["epoch"], evaluation.monitor)
    return entry[evaluation.monitor]


def _is_better(score: float, best: float | None, greater_is_better: bool) -> bool:
    if math.isnan(score):
        return False
    return best is None or (score > best if greater_is_better else score < best)


def _describe_checkpoint(step: TrainStep, checkpoints: Checkpoints | None) -> str:
    if not checkpoints:
        return f"after update {step.updates}"
    return f"a checkpoint of update {step.updates} is in {checkpoints.folder}"


def _save(step: TrainStep, checkpoints: Checkpoints, position: _Position, report: Report) -> None:
    path = checkpoints.save(step, asdict(position))
    report({"event": "checkpoint", "updates": step.updates, "path": str(path)})


class _Best:
    """The best weights so far: with the checkpoints, for a resumed run, or in memory."""

    def __init__(self, model: nn.Module, checkpoints: Checkpoints | None):
        self.model = model
        self.checkpoints = checkpoints
        self.weights: list = []

    def keep(self) -> None:
        if self.checkpoints:
            self.checkpoints.save_best(self.model)
        else:
            self.weights = tree_flatten(self.model.parameters())  # type: ignore[assignment]

    def restore(self) -> None:
        if self.checkpoints:
            self.checkpoints.load_best(self.model)
        else:
            self.model.update(tree_unflatten(self.weights))


def _ignore(event: dict[str, object]) -> None:
    pass
