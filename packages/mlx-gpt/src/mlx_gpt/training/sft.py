"""Supervised fine-tuning on conversations: build, loop, save. The loop is `finetune`.

The recipe is nanochat's, but for what follows. Rates keep the factor that pretraining gave them for
the size of the batch, which nanochat leaves out here. An update divides by the number of its
targets, where nanochat averages the means of unequal micro-batches, 0 / 0 among them.
"""

import math
import time
from dataclasses import dataclass, replace
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
from mlx_gpt.training.batch_sizes import fit_batch
from mlx_gpt.training.finetuning import base_settings, load_base, optimizer_for, take_over_momentum
from mlx_gpt.training.going_on import begin, drop_what_follows
from mlx_gpt.training.limits import SettingsError, check_ranges
from mlx_gpt.training.losses import token_losses
from mlx_gpt.training.pretrain import Report, due, loss_fn, save
from mlx_gpt.training.sft_config import DataConfig, ReportConfig, SftConfig, TrainingConfig
from mlx_trainer import Stopped, TrainStep, rank, stop_requested, world_size

__all__ = [
    "DataConfig",
    "Job",
    "ReportConfig",
    "SftConfig",
    "TrainingConfig",
    "build",
    "finetune",
]

# nanochat's, where the base model is not a run that says its own.
DEFAULTS = {
    "batch_tokens": 2**19,
    "device_batch_size": 32,
    "learning_rate": 0.02,
    "rate_scale": 1.0,
}


@dataclass
class Job:
    """What `build` makes of a configuration."""

    config: SftConfig  # with what was inherited filled in
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


def finetune(job: Job, folder: Path, report: Report, resume: bool = False) -> None:
    """Train, and leave the model in the run's `folder`; `report` is given a dict for each event.

    Under `mlx.launch` rank 0 writes. With `resume` the last checkpoint goes on, bit for bit.
    """
    step, data, settings, seconds = job.step, job.train, job.config.report, 0.0
    keys = ("data", "seconds")
    checkpoints, position = begin(folder, settings, step, job.tokenizer, keys, resume)
    if position:
        data.load_state(position["data"])
        seconds = float(position["seconds"])
    drop_what_follows(folder, step.updates)
    report({"event": "start", "updates": step.updates, "steps": data.total, "used": data.used})
    if job.valid and step.updates == 0:
        report(evaluate(job))
    with stop_requested() as stopping:
        began, scale = time.perf_counter(), rate_scale(job)
        while (batch := data.next_batch()) is not None:
            batches = share(batch, job.config.training.device_batch_size)
            loss, norm = step(batches, scale * job.rate)
            taken = time.perf_counter() - began
            seconds += taken
            report({
                "event": "update", "updates": step.updates, "epoch": data.epoch,
                "progress": data.progress, "used": data.used, "loss": float(loss),
                "targets": int(step.weight), "gradient_norm": float(norm), "rate_scale": scale,
                "tokens_per_second": tokens_of(batches) / taken, "seconds": seconds,
                "peak_memory": peak_memory(),
            })  # fmt: skip
            last = data.used == data.total
            if job.valid and (last or due(settings.evaluate_every, step.updates)):
                report(evaluate(job))
            if last or due(settings.sample_every, step.updates):
                report(sample(job))
            stop = 0 if last else stopping()
            if last or stop or checkpoints.due(step.updates):
                position = {"data": data.state(), "seconds": seconds}
                checkpoints.save(step, position | {"tokenizer": job.tokenizer.identity})
            if stop:
                save(job.model, job.tokenizer, folder)
                raise Stopped(stop, f"a checkpoint of update {step.updates} is in {folder}")
            began, scale = time.perf_counter(), rate_scale(job)
    save(job.model, job.tokenizer, folder)
    report({"event": "end", "updates": step.updates, "seconds": seconds} | vars(data.counts))


def build(config: SftConfig) -> Job:
    """Load the model and the data; `ValueError` where they, or the settings, do not fit."""
    check_ranges(config)
    training = config.training
    model, tokenizer = load_base(config.model, training.dtype, training.checkpoint_blocks)
    training = inherited(training, Path(config.model), model.config.sequence_len)
    config = replace(config, training=training)
    threads = step_threads(training.threads, training.device_batch_size)
    # Rates grow with the root of this number, which does nothing else.
    batch = max(1, round(training.batch_tokens * training.rate_scale**2))
    optimizer = optimizer_for(model, batch, training.learning_rate, muon_momentum, threads=threads)
    kept = training.keep_optimizer_state and take_over_momentum(optimizer, model, config.model)
    step = TrainStep(model, optimizer, loss_fn, max_grad_norm=None, threads=threads)  # type: ignore[arg-type]
    train, valid = packed(config, tokenizer)
    return Job(config, tokenizer, step, train, valid, kept)


def inherited(training: TrainingConfig, model: Path, sequence_len: int) -> TrainingConfig:
    """Return the settings, those not given as in the run that made the base `model`.

    `sequence_len` is the model's, and the most there can be.
    """
    fallback = DEFAULTS | {"sequence_len": sequence_len}
    base = fallback | base_settings(model, list(fallback))
    found = {name: getattr(training, name) or base[name] for name in fallback}
    if found["sequence_len"] > sequence_len:
        raise SettingsError(
            f"training.sequence_len: got {found['sequence_len']}, more than the {sequence_len} "
            "tokens that the model was made for"
        )
    # What is inherited gives way to what is given, where the two do not fit together.
    found["batch_tokens"], found["device_batch_size"] = fit_batch(
        training.batch_tokens or None,
        training.device_batch_size or None,
        int(found["sequence_len"]),
        int(base["batch_tokens"]),
        int(base["device_batch_size"]),
    )
    return replace(training, **found)


def packed(config: SftConfig, tokenizer: Tokenizer) -> tuple[PackedBatches, PackedBatches | None]:
    """Return the batches of all ranks for training, and those for validation if there are any."""
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
    """Return what multiplies the rates of the next update: it falls towards the end."""
    training = job.config.training
    left = min(1.0, (1 - job.train.progress) / max(training.warmdown_ratio, 1e-9))
    return training.initial_rate * (training.final_rate + (1 - training.final_rate) * left)


def share(batch: Batch, device_batch_size: int) -> list[dict[str, np.ndarray]]:
    """Return this rank's micro-batches; those without a target are left out, but for one."""
    inputs, targets = (rows[rank() :: world_size()] for rows in batch)
    pieces = [
        {"inputs": inputs[begin : begin + device_batch_size],
         "targets": targets[begin : begin + device_batch_size]}
        for begin in range(0, len(inputs), device_batch_size)
    ]  # fmt: skip
    return [piece for piece in pieces if (piece["targets"] != IGNORE).any()] or pieces[:1]


def tokens_of(batches: list[dict[str, np.ndarray]]) -> int:
    """Return how many tokens all ranks compute when this one computes these micro-batches."""
    return world_size() * sum(batch["inputs"].size for batch in batches)


def evaluate(job: Job) -> dict:
    """Return the event with loss and bits per byte of the validation data's answers."""
    began = time.perf_counter()
    assert job.valid is not None
    found = validation(job.model, job.valid, job.tokenizer.token_bytes())
    seconds = time.perf_counter() - began
    return {"event": "evaluate", "updates": job.step.updates, **found,
            "evaluation_seconds": seconds}  # fmt: skip


def validation(model: Decoder, data: PackedBatches, token_bytes: np.ndarray) -> dict[str, float]:
    """Return the mean loss of the targets, nats, and the bits for each byte that they stand for.

    The loss includes the special tokens, which stand for no byte.
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
