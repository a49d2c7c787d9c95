"""Supervised fine-tuning on conversations: build, train, evaluate, sample. The loop is `finetune`.

The recipe is nanochat's, with two differences. Rates keep pretraining's factor for the batch size;
nanochat drops it here. An update divides by the number of its targets; nanochat averages the means
of unequal micro-batches, some of which are 0 / 0.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.data.conversation import Conversation, render_conversation, render_for_completion
from mlx_gpt.data.formats import read_mixture
from mlx_gpt.data.packing import Batch, PackedBatches
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.evaluate.metrics import sum_over_ranks
from mlx_gpt.machine import peak_memory, step_threads
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.base_model import (
    finetuning_optimizer,
    load_base,
    load_momentum,
    settings_of_run,
)
from mlx_gpt.training.display import SftDisplay
from mlx_gpt.training.losses import batch_loss, token_losses
from mlx_gpt.training.plan import fit_batch
from mlx_gpt.training.runs import (
    Report,
    explain_divergence,
    is_due,
    restore,
    save_to_run,
    start_run,
    truncate_log,
)
from mlx_gpt.training.settings import SftConfig, SftTraining
from mlx_trainer import (
    ConfigError,
    Stopped,
    TrainStep,
    check_settings,
    rank,
    stop_requested,
    world_size,
)

# nanochat's, for a base model that is not a run and has no settings.
DEFAULTS = {
    "batch_tokens": 2**19,
    "device_batch_size": 32,
    "learning_rate": 0.02,
    "rate_scale": 1.0,
}


@dataclass
class Job:
    """A run that is built and ready to train."""

    config: SftConfig  # with the inherited settings filled in
    tokenizer: Tokenizer
    step: TrainStep
    train: PackedBatches
    valid: PackedBatches | None
    kept_momentum: bool  # of the base run

    @property
    def model(self) -> Decoder:
        """The model being trained."""
        return self.step.model  # type: ignore[return-value]

    @property
    def rate(self) -> float:
        """The learning rate of the matrices, before its schedule."""
        return self.step.optimizer.base_rate  # type: ignore[attr-defined]


def run_finetuning(
    config: SftConfig, output: Path, resume: bool = False, overwrite: bool = False
) -> None:
    """Create or resume the run folder, and fine-tune."""
    started = start_run(partial(build, config), output, resume, overwrite, SftDisplay)
    with started as (job, display):
        training = job.config.training
        display.say(
            f"{len(job.train.conversations):,} conversations x {training.epochs}, rows of "
            f"{training.sequence_len:,} tokens, {training.batch_tokens:,} tokens per update, "
            f"momentum {'of the base run' if job.kept_momentum else 'from 0'}"
        )
        with explain_divergence(output, "training.initial_rate", training.initial_rate):
            finetune(job, output, display, resume)
        display.say(f"model: {output / 'model'}")
        display.say(f"next: mlx-gpt chat --model {output}")


def finetune(job: Job, folder: Path, report: Report, resume: bool = False) -> None:
    """Train, and leave the model in the run's `folder`; `report` gets a dict for each event.

    Under `mlx.launch` rank 0 writes. `resume` continues from the last checkpoint, bit for bit.
    """
    step, data, settings, seconds = job.step, job.train, job.config.report, 0.0
    checkpoints, position = restore(job, folder, ("data", "seconds"), resume)
    if position:
        data.load_state(position["data"])
        seconds = float(position["seconds"])
    truncate_log(folder, step.updates)
    report({"event": "start", "updates": step.updates, "steps": data.total, "used": data.used})
    if job.valid and step.updates == 0:
        report(evaluate(job))
    with stop_requested() as stopping:
        began, scale = time.perf_counter(), rate_scale(job)
        while (batch := data.next_batch()) is not None:
            batches = shard_batch(batch, job.config.training.device_batch_size)
            loss, norm = step(batches, scale * job.rate)
            taken = time.perf_counter() - began
            seconds += taken
            report({
                "event": "update", "updates": step.updates, "epoch": data.epoch,
                "progress": data.progress, "used": data.used, "loss": float(loss),
                "targets": int(step.weight), "gradient_norm": float(norm), "rate_scale": scale,
                "tokens_per_second": count_tokens(batches) / taken, "seconds": seconds,
                "peak_memory": peak_memory(),
            })  # fmt: skip
            last = data.used == data.total
            if job.valid and (last or is_due(settings.evaluate_every, step.updates)):
                report(evaluate(job))
            if last or is_due(settings.sample_every, step.updates):
                report(sample(job))
            stop = 0 if last else stopping()
            if last or stop or checkpoints.due(step.updates):
                position = {"data": data.state(), "seconds": seconds}
                checkpoints.save(step, position | {"tokenizer": job.tokenizer.identity})
            if stop:
                save_to_run(job.model, job.tokenizer, folder)
                raise Stopped(stop, f"a checkpoint of update {step.updates} is in {folder}")
            began, scale = time.perf_counter(), rate_scale(job)
    save_to_run(job.model, job.tokenizer, folder)
    report({"event": "end", "updates": step.updates, "seconds": seconds} | vars(data.counts))


def build(config: SftConfig) -> Job:
    """Load the model and the data; `ValueError` if they, or the settings, do not fit."""
    check_settings(config)
    training = config.training
    model, tokenizer = load_base(config.model, training.dtype, training.checkpoint_blocks)
    training = inherit_settings(training, Path(config.model), model.config.sequence_len)
    config = replace(config, training=training)
    threads = step_threads(training.threads, training.device_batch_size)
    # This number only scales the rates, which grow with its square root.
    batch = max(1, round(training.batch_tokens * training.rate_scale**2))
    optimizer = finetuning_optimizer(
        model, batch, training.learning_rate, muon_momentum, threads=threads
    )
    kept = training.keep_optimizer_state and load_momentum(optimizer, model, config.model)
    step = TrainStep(model, optimizer, batch_loss, max_grad_norm=None, threads=threads)  # type: ignore[arg-type]
    train, valid = pack_batches(config, tokenizer)
    return Job(config, tokenizer, step, train, valid, kept)


def inherit_settings(training: SftTraining, model: Path, sequence_len: int) -> SftTraining:
    """Return the settings; those that are 0 are taken from the run of the base `model`.

    `sequence_len` is the model's, and the maximum.
    """
    fallback = DEFAULTS | {"sequence_len": sequence_len}
    base = fallback | settings_of_run(model, list(fallback))
    found = {name: getattr(training, name) or base[name] for name in fallback}
    if found["sequence_len"] > sequence_len:
        raise ConfigError(
            f"training.sequence_len: got {found['sequence_len']}, more than the {sequence_len} "
            "tokens that the model was made for"
        )
    # Given sizes override inherited ones that do not fit them.
    found["batch_tokens"], found["device_batch_size"] = fit_batch(
        training.batch_tokens or None,
        training.device_batch_size or None,
        int(found["sequence_len"]),
        int(base["batch_tokens"]),
        int(base["device_batch_size"]),
    )
    return replace(training, **found)


def pack_batches(
    config: SftConfig, tokenizer: Tokenizer
) -> tuple[PackedBatches, PackedBatches | None]:
    """Return the training batches of all ranks, and the validation batches, if any."""
    data, training = config.data, config.training
    length, rows = training.sequence_len, training.batch_tokens // training.sequence_len

    def render(conversation: Conversation) -> tuple[list[int], list[int]]:
        return render_conversation(tokenizer, conversation)

    def pack(files: list[str], rows: int, **options) -> PackedBatches:
        conversations = read_mixture(files)
        batches = PackedBatches(conversations, render, length, rows, tokenizer.bos_id,
                                oversize=data.oversize, **options)  # fmt: skip
        if batches.used == len(conversations):  # before the first batch
            counts = batches.counts
            raise ValueError(
                f"{', '.join(files)}: none of the {len(conversations):,} conversations can be "
                f"learned from: {counts.without_target:,} have no answer within the first "
                f"{length + 1} tokens, {counts.dropped:,} are longer than a row and dropped; use a "
                "larger sequence_len"
            )
        return batches

    train = pack(data.train, rows, epochs=training.epochs, seed=training.seed)
    at_once = training.device_batch_size * world_size()
    return train, pack(data.valid, at_once, shuffle=False) if data.valid else None


def muon_momentum(step: mx.array) -> mx.array:
    """Return nanochat's momentum of the matrices: from 0.85 to 0.95 in 300 updates."""
    return 0.85 + 0.10 * mx.minimum(step.astype(mx.float32) / 300, 1.0)


def rate_scale(job: Job) -> float:
    """Return the factor of the rates in the next update; it falls towards the end."""
    training = job.config.training
    left = min(1.0, (1 - job.train.progress) / max(training.warmdown_ratio, 1e-9))
    return training.initial_rate * (training.final_rate + (1 - training.final_rate) * left)


def shard_batch(batch: Batch, device_batch_size: int) -> list[dict[str, np.ndarray]]:
    """Return this rank's micro-batches that have targets, or one without any."""
    inputs, targets = (rows[rank() :: world_size()] for rows in batch)
    pieces = [
        {"inputs": inputs[begin : begin + device_batch_size],
         "targets": targets[begin : begin + device_batch_size]}
        for begin in range(0, len(inputs), device_batch_size)
    ]  # fmt: skip
    return [piece for piece in pieces if (piece["targets"] != IGNORE).any()] or pieces[:1]


def count_tokens(batches: list[dict[str, np.ndarray]]) -> int:
    """Return the tokens that all ranks compute while this one computes these micro-batches."""
    return world_size() * sum(batch["inputs"].size for batch in batches)


def evaluate(job: Job) -> dict:
    """Return the event with loss and bits per byte of the validation data's answers."""
    began = time.perf_counter()
    assert job.valid is not None
    found = measure(job.model, job.valid, job.tokenizer.token_bytes())
    seconds = time.perf_counter() - began
    return {"event": "evaluate", "updates": job.step.updates, **found,
            "evaluation_seconds": seconds}  # fmt: skip


def measure(model: Decoder, data: PackedBatches, token_bytes: np.ndarray) -> dict[str, float]:
    """Return the mean loss of the targets in nats, and their bits per byte.

    The loss includes special tokens, which have no bytes.
    """
    sums = np.zeros(4)  # of losses, targets, losses of bytes, bytes
    data.reset()
    while (batch := data.next_batch()) is not None:
        inputs, targets = (rows[rank() :: world_size()] for rows in batch)
        hidden = model.hidden_states(mx.array(inputs))
        losses = token_losses(hidden, model.head_weight, mx.array(targets), model.logit_cap)
        losses = np.array(losses, np.float64)  # 0 where there is no target
        sizes = np.where(targets == IGNORE, 0, token_bytes[targets])
        sums += losses.sum(), (targets != IGNORE).sum(), losses[sizes > 0].sum(), sizes.sum()
    loss, count, nats, size = sum_over_ranks(sums).tolist()
    return {"loss": loss / count, "bits_per_byte": nats / (math.log(2) * max(size, 1))}


def sample(job: Job) -> dict:
    """Return the event with the most likely answers to the prompts."""
    engine = Engine(job.model, job.tokenizer)
    settings = job.config.report
    requests = []
    for prompt in settings.prompts:
        question = {"messages": [{"role": "user", "content": prompt}]}
        ids = render_for_completion(job.tokenizer, question)
        requests.append(Request(ids, settings.sample_tokens, Sampling(temperature=0.0)))
    texts = [completion.text for completion in engine.generate(requests)] if requests else []
    pairs = [list(pair) for pair in zip(settings.prompts, texts, strict=True)]
    return {"event": "sample", "updates": job.step.updates, "samples": pairs}
