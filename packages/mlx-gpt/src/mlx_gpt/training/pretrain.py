"""Pretraining: build, train, evaluate, sample. The loop is `pretrain`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.evaluate.core import evaluate_core_task
from mlx_gpt.evaluate.core_tasks import CoreTask, read_core_tasks
from mlx_gpt.evaluate.metrics import bits_per_byte, mean_centered
from mlx_gpt.machine import peak_memory, step_threads
from mlx_gpt.models.nanochat import Nanochat
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.base_model import build_model
from mlx_gpt.training.losses import batch_loss
from mlx_gpt.training.plan import Plan, accumulation_steps, fit_batch, plan_for
from mlx_gpt.training.runs import (
    Report,
    explain_divergence,
    extend_run,
    is_due,
    restore,
    save_to_run,
    start_run,
    truncate_log,
    with_more_steps,
)
from mlx_gpt.training.settings import PretrainConfig, PretrainTraining
from mlx_gpt.training.streams import Usage, count_tokens, open_streams
from mlx_muon import nanochat
from mlx_shards import TokenStream
from mlx_trainer import Stopped, TrainStep, check_settings, stop_requested, world_size

# nanochat's; a shorter shard is read as a whole.
MAX_EVALUATION_TOKENS = 80 * 2**19
SAMPLE_TOKENS = 16


@dataclass
class Job:
    """A run that is built and ready to train."""

    config: PretrainConfig  # with steps and batch_tokens filled in
    plan: Plan
    tokenizer: Tokenizer
    step: TrainStep
    train: TokenStream
    valid: TokenStream
    accumulation: int  # micro-batches per update
    core: list[CoreTask]  # may be empty
    held_out: Usage  # of the validation data
    notes: list[str] = field(default_factory=list)  # on the data, to show

    @property
    def model(self) -> Nanochat:
        """The model being trained."""
        return self.step.model  # type: ignore[return-value]


def run_pretraining(
    config: PretrainConfig,
    output: Path,
    resume: bool = False,
    overwrite: bool = False,
    steps: int | None = None,
) -> None:
    """Create or resume the run folder, and train; `steps` extends a resumed run."""
    planned = config.training.steps if steps else None
    config = with_more_steps(config, steps) if steps else config
    with start_run(partial(build, config, resume), output, resume, overwrite) as (job, display):
        training = job.config.training
        for line in (job.plan.table(), *job.notes):
            display.say(line)
        display.say(f"{'update':18} {job.accumulation} x {training.device_batch_size} rows")
        with explain_divergence(output, "training.rate_scale", training.rate_scale):
            pretrain(job, output, display, resume, planned)
        display.say(f"model: {output / 'model'}")
        display.say(f'next: mlx-gpt generate --model {output} --prompt "Once upon a time"')


def pretrain(
    job: Job, folder: Path, report: Report, resume: bool = False, planned: int | None = None
) -> None:
    """Train, and leave the model in the run's `folder`; `report` gets a dict for each event.

    Under `mlx.launch` rank 0 writes. `resume` continues from the last checkpoint, bit for bit;
    `planned` is the number of steps that the run had before it was extended.
    """
    step, settings, seconds = job.step, job.config.report, 0.0
    checkpoints, position = restore(job, folder, ("data", "seconds"), resume)
    if position:
        job.train.load_state(position["data"])
        seconds = float(position["seconds"])
    truncate_log(folder, step.updates)
    if planned:
        report(extend_run(folder, job.config, planned, step.updates))
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
            if last or is_due(settings.evaluate_every, step.updates):
                report(evaluate(job, is_last=last))
            if job.core and (last or is_due(settings.core_every, step.updates)):
                report(evaluate_core(job))
            if last or is_due(settings.sample_every, step.updates):
                report(sample(job))
            stop = 0 if last else stopping()
            if last or stop or checkpoints.due(step.updates):
                position = {"data": job.train.state(), "seconds": seconds}
                checkpoints.save(step, position | {"tokenizer": job.tokenizer.identity})
            if stop:
                save_to_run(job.model, job.tokenizer, folder)
                raise Stopped(stop, f"a checkpoint of update {step.updates} is in {folder}")
            began = time.perf_counter()
    save_to_run(job.model, job.tokenizer, folder)
    report({"event": "end", "updates": step.updates, "seconds": seconds})


def build(config: PretrainConfig, resume: bool = False) -> Job:
    """Build model, optimizer, step and streams; raises `ValueError` if they do not fit.

    With `resume` the weights of `model.init_from` are not read: the checkpoint replaces them.
    """
    check_settings(config)
    tokenizer = Tokenizer.load(config.data.tokenizer)
    plan = plan_for(config, tokenizer.vocab_size)
    length = config.model.sequence_len
    batch, rows = fit_batch(
        plan.batch_tokens, config.training.device_batch_size, length, plan.batch_tokens
    )
    training = replace(
        config.training, steps=plan.steps, batch_tokens=batch, device_batch_size=rows
    )
    accumulation = accumulation_steps(batch, rows, length)
    config = replace(config, training=training)
    report = config.report
    core = read_core_tasks(Path(report.core), report.core_max_per_task) if report.core else []
    notes: list[str] = []
    train, valid = open_streams(config, tokenizer, note=notes.append)
    held_out = count_tokens(valid)
    once, _ = open_streams(config, tokenizer, epochs=1)
    notes += [f"an epoch of training {count_tokens(once)}", f"validation {held_out}"]
    model = build_model(plan, config, tokenizer, resume)
    step = build_step(model, plan, training, rows)
    return Job(config, plan, tokenizer, step, train, valid, accumulation, core, held_out, notes)


def build_step(model: Nanochat, plan: Plan, training: PretrainTraining, rows: int) -> TrainStep:
    """Return the update of nanochat's recipe: Muon for the blocks, AdamW in groups for the rest."""
    threads = step_threads(training.threads, rows)
    constant = training.schedule == "constant"
    recipe = partial(
        nanochat,
        plan.config.n_embd,
        plan.steps,
        # This number only scales the rates, which grow with its square root.
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
    return TrainStep(model, optimizer, batch_loss, max_grad_norm=None, threads=threads)


def updates(job: Job) -> Iterator[list[dict]]:
    """Yield the micro-batches of each remaining update."""
    batches = iter(job.train)
    try:
        while job.step.updates < job.plan.steps:
            chosen = [next(batches) for _ in range(job.accumulation)]
            yield [{"inputs": each.inputs, "targets": each.targets} for each in chosen]
    finally:
        job.train.close()


def evaluate(job: Job, is_last: bool = False) -> dict:
    """Return the event with the bits per byte of the validation data."""
    began = time.perf_counter()
    job.valid.reset()
    limit = MAX_EVALUATION_TOKENS if is_last else evaluation_tokens(job)
    value = bits_per_byte(job.model, _first_batches(job, limit), job.tokenizer.token_bytes())
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
    """Return the tokens per evaluation; by default evaluations take 5% of the training time."""
    settings = job.config.report
    if settings.evaluation_tokens:
        return settings.evaluation_tokens
    between = (settings.evaluate_every or job.plan.steps) * job.plan.batch_tokens
    # Evaluating on a token takes a third of the time of training on it.
    return min(max(3 * between // 20, job.plan.batch_tokens), MAX_EVALUATION_TOKENS)


def _first_batches(job: Job, tokens: int) -> Iterator:
    """Yield validation batches until all ranks together have read `tokens`."""
    read = 0
    for batch in job.valid:
        yield batch
        read += batch.inputs.size * world_size()
        if read >= tokens:
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
    """Return the schedule's factor of the learning rates in the last update."""
    schedule = job.step.optimizer.schedule  # type: ignore[attr-defined]
    return float(schedule(mx.array(job.step.updates - 1)))
