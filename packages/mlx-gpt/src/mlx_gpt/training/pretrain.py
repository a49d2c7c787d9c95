"""Pretraining: build, loop, save. The loop is `pretrain`, and fits one screen."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from mlx_gpt.data import IGNORE
from mlx_gpt.data.streams import Usage, count_tokens, streams
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.evaluate.core import evaluate_core_task
from mlx_gpt.evaluate.core_tasks import CoreTask, read_core_tasks
from mlx_gpt.evaluate.metrics import bits_per_byte, mean_centered
from mlx_gpt.machine import peak_memory, step_threads
from mlx_gpt.models.files import save_manifest, save_model
from mlx_gpt.models.formats import Decoder
from mlx_gpt.models.nanochat import Nanochat
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.batch_sizes import fit_batch, micro_batches, plan_of
from mlx_gpt.training.going_on import begin, drop_what_follows, extend
from mlx_gpt.training.limits import check_ranges
from mlx_gpt.training.losses import loss_sum
from mlx_gpt.training.plan import Plan
from mlx_gpt.training.pretrain_config import PretrainConfig, TrainingConfig
from mlx_gpt.training.starting import build_model
from mlx_muon import nanochat
from mlx_shards import TokenStream
from mlx_trainer import Stopped, TrainStep, rank, stop_requested, world_size

# nanochat's; of a shard that is shorter, everything is read.
MOST_EVALUATION_TOKENS = 80 * 2**19
SAMPLE_TOKENS = 16


@dataclass
class Job:
    """What `build` makes of a configuration."""

    config: PretrainConfig  # with steps and batch_tokens filled in
    plan: Plan
    tokenizer: Tokenizer
    step: TrainStep
    train: TokenStream
    valid: TokenStream
    accumulation: int  # micro-batches an update
    core: list[CoreTask]  # to measure the model with now and then, maybe none
    held_out: Usage  # of the validation data
    notes: list[str] = field(default_factory=list)  # on the data, for the reader

    @property
    def model(self) -> Nanochat:
        """The model being trained."""
        return self.step.model  # type: ignore[return-value]


Report = Callable[[dict], None]


def pretrain(
    job: Job, folder: Path, report: Report, resume: bool = False, planned: Sequence[int] = ()
) -> None:
    """Train, and leave the model in the run's `folder`; `report` is given a dict for each event.

    Under `mlx.launch` rank 0 writes. With `resume` the last checkpoint goes on, bit for bit;
    `planned` are the fewer steps that the run was to have before, where it goes on for more.
    """
    step, settings, seconds = job.step, job.config.report, 0.0
    keys = ("data", "seconds")
    checkpoints, position = begin(folder, settings, step, job.tokenizer, keys, resume)
    if position:
        job.train.load_state(position["data"])
        seconds = float(position["seconds"])
    drop_what_follows(folder, step.updates)
    if planned:
        report(extend(folder, job.config, planned, step.updates))
    report({"event": "start", "updates": step.updates, "steps": job.plan.steps})
    if step.updates == 0:
        report(evaluate(job))
    with stop_requested() as stopping:
        base = step.optimizer.base_rate  # type: ignore[attr-defined]
        began = time.perf_counter()
        for batches in updates(job):
            loss, norm = step(batches, base)
            taken = time.perf_counter() - began
            seconds += taken
            report({
                "event": "update", "updates": step.updates, "loss": float(loss),
                "gradient_norm": float(norm), "rate_scale": rate_scale(job),
                "tokens_per_second": job.plan.batch_tokens / taken, "seconds": seconds,
                "peak_memory": peak_memory(),
            })  # fmt: skip
            last = step.updates == job.plan.steps
            if last or due(settings.evaluate_every, step.updates):
                report(evaluate(job, everything=last))
            if job.core and (last or due(settings.core_every, step.updates)):
                report(evaluate_core(job))
            if last or due(settings.sample_every, step.updates):
                report(sample(job))
            stop = 0 if last else stopping()
            if last or stop or checkpoints.due(step.updates):
                position = {"data": job.train.state(), "seconds": seconds}
                checkpoints.save(step, position | {"tokenizer": job.tokenizer.identity})
            if stop:
                save(job.model, job.tokenizer, folder)
                raise Stopped(stop, f"a checkpoint of update {step.updates} is in {folder}")
            began = time.perf_counter()
    save(job.model, job.tokenizer, folder)
    report({"event": "end", "updates": step.updates, "seconds": seconds})


def build(config: PretrainConfig, resume: bool = False) -> Job:
    """Make model, optimizer, step and streams; raises `ValueError` where they do not fit.

    With `resume` the weights to begin with are not read: a checkpoint has others.
    """
    check_ranges(config)
    tokenizer = Tokenizer.load(config.data.tokenizer)
    plan = plan_of(config, tokenizer.vocab_size)
    length = config.model.sequence_len
    batch, rows = fit_batch(
        plan.batch_tokens, config.training.device_batch_size, length, plan.batch_tokens
    )
    training = replace(
        config.training, steps=plan.steps, batch_tokens=batch, device_batch_size=rows
    )
    accumulation = micro_batches(batch, rows, length)
    config = replace(config, training=training)
    report = config.report
    core = read_core_tasks(Path(report.core), report.core_max_per_task) if report.core else []
    notes: list[str] = []
    train, valid = streams(config, tokenizer, note=notes.append)
    held_out = count_tokens(valid)
    once, _ = streams(config, tokenizer, epochs=1)
    notes += [f"an epoch of training {count_tokens(once)}", f"validation {held_out}"]
    model = build_model(plan, config, tokenizer, resume)
    step = build_step(model, plan, training, rows)
    return Job(config, plan, tokenizer, step, train, valid, accumulation, core, held_out, notes)


def build_step(model: Nanochat, plan: Plan, training: TrainingConfig, rows: int) -> TrainStep:
    """Return the update of nanochat's recipe: Muon for the blocks, AdamW in groups for the rest."""
    threads = step_threads(training.threads, rows)
    constant = training.schedule == "constant"
    recipe = partial(
        nanochat,
        plan.config.n_embd,
        plan.steps,
        # Rates grow with the root of this number, which does nothing else.
        batch_tokens=max(1, round(plan.batch_tokens * training.rate_scale**2)),
        learning_rate=training.learning_rate,
        weight_decay=plan.weight_decay,
        warmup_steps=training.warmup_steps,
        warmdown_ratio=0.0 if constant else training.warmdown_ratio,
        final_rate=training.final_rate,
        two_streams=threads > 1 or None,
        distributed=mx.distributed.init() if world_size() > 1 else None,
    )
    optimizer = recipe()
    if constant:
        optimizer = recipe(muon=replace(optimizer.muon, weight_decay=plan.weight_decay))
    return TrainStep(model, optimizer, loss_fn, max_grad_norm=None, threads=threads)


def loss_fn(model, batch: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
    """Return the sum of the losses of a batch's targets, and their number."""
    hidden, targets = model.hidden_states(batch["inputs"]), batch["targets"]
    loss = loss_sum(hidden, model.head_weight, targets, cap=model.logit_cap)
    return loss, (targets != IGNORE).sum()


def updates(job: Job) -> Iterator[list[dict]]:
    """Yield the micro-batches of each update that is left."""
    batches = iter(job.train)
    try:
        while job.step.updates < job.plan.steps:
            chosen = [next(batches) for _ in range(job.accumulation)]
            yield [{"inputs": each.inputs, "targets": each.targets} for each in chosen]
    finally:
        job.train.close()


def evaluate(job: Job, everything: bool = False) -> dict:
    """Return the event with the bits per byte of the validation data."""
    began = time.perf_counter()
    job.valid.reset()
    most = MOST_EVALUATION_TOKENS if everything else evaluation_tokens(job)
    value = bits_per_byte(job.model, _first(job, most), job.tokenizer.token_bytes())
    return {
        "event": "evaluate", "updates": job.step.updates, "bits_per_byte": value,
        "tokens": job.valid.stats.counts.tokens, "held_out_tokens": job.held_out.size,
        "evaluation_seconds": time.perf_counter() - began,
    }  # fmt: skip


def evaluate_core(job: Job) -> dict:
    """Return the event with the CORE score and the accuracy of each task."""
    began = time.perf_counter()
    results = [evaluate_core_task(job.model, job.tokenizer, task) for task in job.core]
    return {
        "event": "core", "updates": job.step.updates, "core": mean_centered(results),
        "tasks": {result.name: result.accuracy for result in results},
        "evaluation_seconds": time.perf_counter() - began,
    }  # fmt: skip


def evaluation_tokens(job: Job) -> int:
    """Return how many tokens an evaluation reads: by default for a twentieth of the time."""
    settings = job.config.report
    if settings.evaluation_tokens:
        return settings.evaluation_tokens
    between = (settings.evaluate_every or job.plan.steps) * job.plan.batch_tokens
    # A token takes a third of the time that training on it takes.
    return min(max(3 * between // 20, job.plan.batch_tokens), MOST_EVALUATION_TOKENS)


def _first(job: Job, tokens: int) -> Iterator:
    """Yield the validation batches of all ranks up to so many tokens."""
    given = 0
    for batch in job.valid:
        yield batch
        given += batch.inputs.size * world_size()
        if given >= tokens:
            return


def sample(job: Job) -> dict:
    """Return the event with greedy continuations of the prompts."""
    engine = Engine(job.model, job.tokenizer, tools=False)
    prompts = job.config.report.prompts
    requests = [
        Request([job.tokenizer.bos_id, *job.tokenizer.encode(prompt)], SAMPLE_TOKENS,
                Sampling(temperature=0.0))
        for prompt in prompts
    ]  # fmt: skip
    texts = [completion.text for completion in engine.generate(requests)] if requests else []
    pairs = [list(pair) for pair in zip(prompts, texts, strict=True)]
    return {"event": "sample", "updates": job.step.updates, "samples": pairs}


def rate_scale(job: Job) -> float:
    """Return what the schedule multiplied the learning rates by in the last update."""
    schedule = job.step.optimizer.schedule  # type: ignore[attr-defined]
    return float(schedule(mx.array(job.step.updates - 1)))


def save(model: Decoder, tokenizer: Tokenizer, run: Path) -> None:
    """Write model and tokenizer into the run, on rank 0."""
    if rank() == 0:
        save_model(model, run / "model", tokenizer.sha256)
        tokenizer.save(run / "model")
        save_manifest(run / "model")


def due(every: int, updates: int) -> bool:
    """Return whether something is to be done after so many updates; never if `every` is 0."""
    return every > 0 and updates % every == 0
