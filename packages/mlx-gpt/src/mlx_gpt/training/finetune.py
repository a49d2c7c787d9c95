"""Fine-tuning of any model, by an adapter or whole: build, train, evaluate, save.

The loop is `finetune`. An update divides by the number of all its targets, so that it does not
depend on how its rows are cut into micro-batches.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import mlx.core as mx
import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.data.batching import EpochBatches
from mlx_gpt.machine import peak_memory, step_threads
from mlx_gpt.models.adapters import Base, write_adapter
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.files import save_manifest
from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_gpt.training.display import FinetuneDisplay
from mlx_gpt.training.finetune_data import Dataset, add_reference, read_dataset
from mlx_gpt.training.finetune_model import (
    load_for_training,
    make_optimizer,
    parameter_count,
    peak_rate,
    trained_parameters,
)
from mlx_gpt.training.finetune_plan import count_updates, describe_rows, epoch_batches
from mlx_gpt.training.finetune_settings import FinetuneConfig, FinetuneTraining
from mlx_gpt.training.losses import batch_loss, head_losses, target_states
from mlx_gpt.training.outcome import judge, rows_to_compare
from mlx_gpt.training.preferences import pair_losses, preference_loss, score_pairs
from mlx_gpt.training.runs import (
    Report,
    explain_divergence,
    is_due,
    restore,
    save_to_run,
    start_run,
    truncate_log,
)
from mlx_trainer import (
    Checkpoints,
    ConfigError,
    Stopped,
    TrainingError,
    TrainStep,
    check_settings,
    stop_requested,
)
from mlx_trainer import world_size as processes


@dataclass
class Job:
    """A run that is built and ready to train."""

    config: FinetuneConfig
    tokenizer: AnyTokenizer
    step: TrainStep
    base: Base | None  # of the adapter; None if the model's own weights are trained
    train: Dataset
    batches: EpochBatches
    valid: Dataset | None

    @property
    def model(self) -> Decoder:
        """The model being trained."""
        return self.step.model  # type: ignore[return-value]

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return count_updates(self.batches, self.config)


@dataclass
class Progress:
    """What a resumed run needs besides arrays and the place in the data."""

    seconds: float = 0.0
    before: float | None = None  # loss before the first update, of the rows that are compared
    after: float | None = None  # loss of the last evaluation
    best: float | None = None  # loss
    best_update: int = 0
    without_improvement: int = 0  # evaluations
    ended: bool = False


def run_finetune(
    config: FinetuneConfig, output: Path, resume: bool = False, overwrite: bool = False
) -> None:
    """Create or resume the run folder, and fine-tune."""
    started = start_run(partial(build, config), output, resume, overwrite, FinetuneDisplay)
    with started as (job, display):
        for line in describe(job):
            display.say(line)
        with explain_divergence(output, "training.learning_rate", peak_rate(config)):
            finetune(job, output, display, resume)
        display.say(f"model: {output / 'model'}")
        display.say(f"next: mlx-gpt generate --model {output}")


def finetune(job: Job, folder: Path, report: Report, resume: bool = False) -> None:
    """Train, and leave the model in the run's `folder`; `report` gets a dict for each event.

    `resume` continues from the last checkpoint, bit for bit.
    """
    step, settings, progress = job.step, job.config.report, Progress()
    is_adapter = job.base is not None
    checkpoints, position = restore(job, folder, ("data", "progress"), resume, is_adapter)
    if position:
        job.batches.load_state(position["data"])
        progress = Progress(**position["progress"])
    truncate_log(folder, step.updates)
    report({"event": "start", "updates": step.updates, "steps": job.updates})
    compared = rows_to_compare(job.train, job.valid)
    if step.updates == 0:
        first = evaluate(job, compared)
        progress.before = first["loss"]
        if job.valid:
            report(first)
    if not progress.ended:
        report({"event": "compile", "updates": step.updates})
    with stop_requested() as stopping:
        while not progress.ended:
            report(update(job, progress))
            last = step.updates >= job.updates
            if job.valid and (last or is_due(settings.evaluate_every, step.updates)):
                report(found := evaluate(job, job.valid))
                progress.after = found["loss"]
                _note(found["loss"], job, progress, checkpoints)
            progress.ended = last or 0 < settings.patience <= progress.without_improvement
            stop = 0 if progress.ended else stopping()
            if progress.ended or stop or checkpoints.due(step.updates):
                state = {"data": job.batches.state(), "progress": vars(progress)}
                checkpoints.save(step, state | {"tokenizer": job.tokenizer.identity})
            if stop:
                save(job, folder)
                raise Stopped(stop, f"a checkpoint of update {step.updates} is in {folder}")
    restored = settings.keep_best and progress.best is not None
    if restored:
        checkpoints.load_best(job.model)
        progress.after = progress.best
    elif not job.valid:
        progress.after = evaluate(job, compared)["loss"]
    save(job, folder)
    report({"event": "end", "updates": step.updates} | vars(progress) | {
        "restored": restored, "stopped_early": step.updates < job.updates,
        "warning": _judge(job, progress)})  # fmt: skip


def update(job: Job, progress: Progress) -> dict:
    """Do the next update; return its event."""
    began, step = time.perf_counter(), job.step
    batches = job.batches.next_update()
    share = rate_share(job.config.training, step.updates, job.updates)
    loss, norm = step(batches, share * peak_rate(job.config))
    taken = time.perf_counter() - began
    progress.seconds += taken
    return {
        "event": "update", "updates": step.updates, "epoch": job.batches.epoch, "loss": float(loss),
        "gradient_norm": float(norm), "rate_scale": share, "targets": int(step.weight),
        "tokens": job.batches.tokens, "tokens_per_second": job.batches.tokens / taken,
        "seconds": progress.seconds, "peak_memory": peak_memory(),
    }  # fmt: skip


def evaluate(job: Job, data: Dataset) -> dict:
    """Return the event with the mean loss of all targets; of pairs, with accuracy and margin.

    Raises `TrainingError` if the loss is not finite; before the first update, `ValueError`.
    """
    began, model = time.perf_counter(), job.model
    model.eval()
    is_sft = job.config.objective.name == "sft"
    found = _row_loss(model, data) if is_sft else _pair_scores(job, data)
    model.train()
    if not math.isfinite(found["loss"]):
        _refuse(job, found["loss"])
    seconds = time.perf_counter() - began
    return {"event": "evaluate", "updates": job.step.updates, **found,
            "evaluation_seconds": seconds}  # fmt: skip


def build(config: FinetuneConfig) -> Job:
    """Load the model and the data; raises `ValueError` if they, or the settings, do not fit."""
    check_settings(config)
    config.check()
    if processes() > 1:
        raise ConfigError("finetune runs in one process; start it without mlx.launch")
    training, data = config.training, config.data
    mx.random.seed(training.seed)  # of dropout
    model, tokenizer, base = load_for_training(config)
    longest = model.config.sequence_len
    train = read_dataset(config, data.train, tokenizer, longest)
    valid = read_dataset(config, data.valid, tokenizer, longest) if data.valid else None
    loss = batch_loss
    if config.objective.name != "sft":
        loss = preference_loss(config.objective)
        for each in (train, valid) if config.objective.name == "dpo" else ():
            if each:
                add_reference(each, model)
    step = TrainStep(
        model,
        make_optimizer(config, model),
        loss,  # type: ignore[arg-type]
        max_grad_norm=training.max_grad_norm or None,
        threads=step_threads(training.threads, training.batch_size),
    )
    batches = epoch_batches(train, config, longest)
    return Job(config, tokenizer, step, base, train, batches, valid)


def rate_share(training: FinetuneTraining, update: int, total: int) -> float:
    """Return the share of the highest rate in an update, counted from 0, of `total`."""
    rising = round(training.warmup * total)
    if update < rising:
        return (update + 1) / rising
    falling = total - rising
    if training.schedule == "wsd":
        falling = min(falling, round(training.decay * total))
    past = min(1.0, max(0.0, (update - (total - falling)) / max(1, falling)))
    fall = {
        "cosine": (1 - math.cos(math.pi * past)) / 2,
        "linear": past,
        "wsd": past,
        "constant": 0.0,
    }[training.schedule]
    return 1 - (1 - training.final_rate) * fall


def describe(job: Job) -> list[str]:
    """Return the lines of the plan: rows, what happened to some of them, updates, parameters."""
    total, trained = parameter_count(job.model), trained_parameters(job.model)
    return [
        *describe_rows(job.train, job.valid, job.batches, job.config),
        f"{job.config.method.name}: {trained:,} of {total:,} parameters are trained "
        f"({trained / total:.2%})",
    ]


def save(job: Job, folder: Path) -> None:
    """Write the adapter or the model, and the tokenizer, into the run's folder."""
    if job.base is None:
        save_to_run(job.model, job.tokenizer, folder)
        return
    write_adapter(job.model, folder / "model", job.base, job.config.method.adapter_format)
    job.tokenizer.save(folder / "model")
    save_manifest(folder / "model")


def _refuse(job: Job, loss: float) -> NoReturn:
    done = job.step.updates
    if done == 0:
        raise ValueError(f"{job.config.model}: the loss is {loss} before the first update")
    raise TrainingError(f"update {done}: the loss of an evaluation is {loss}; lower the rate")


def _judge(job: Job, progress: Progress) -> str:
    is_sft = job.config.objective.name == "sft"
    uniform = math.log(job.model.config.vocab_size) if is_sft else None
    assert progress.after is not None
    warning = judge(progress.before, progress.after, uniform, job.valid is not None)
    return f"{warning}; lower training.learning_rate={peak_rate(job.config):g}" if warning else ""


def _note(loss: float, job: Job, progress: Progress, checkpoints: Checkpoints) -> None:
    """Keep the weights if they are the best so far, and count evaluations without improvement."""
    if progress.best is not None and not loss < progress.best:
        progress.without_improvement += 1
        return
    progress.best, progress.best_update = loss, job.step.updates
    progress.without_improvement = 0
    if job.config.report.keep_best:
        checkpoints.save_best(job.model)


def _row_loss(model: Decoder, data: Dataset) -> dict[str, float]:
    sums = np.zeros(2)
    for _, arrays in data.once():
        losses = head_losses(model, target_states(model, arrays), arrays["targets"])
        sums += np.array(losses, np.float64).sum(), int((arrays["targets"] != IGNORE).sum())
    return {"loss": float(sums[0] / sums[1])}


def _pair_scores(job: Job, data: Dataset) -> dict[str, float]:
    losses, rewards = [], []
    for _, arrays in data.once():
        found, reward = pair_losses(job.model, arrays, job.config.objective)
        losses.append(np.array(found, np.float64))
        rewards.append(np.array(reward, np.float64))
    return {"loss": float(np.concatenate(losses).mean())} | score_pairs(np.concatenate(rewards))
