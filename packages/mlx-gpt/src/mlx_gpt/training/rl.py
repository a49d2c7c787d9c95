"""Reinforcement learning on questions with checkable answers. The loop is `reinforce`.

nanochat's: REINFORCE (Williams 1992) on groups of answers to the same question. The advantage of an
answer is its reward minus the mean of its group, and all tokens of a pass have the same weight
(arXiv 2503.14476). Each update samples new answers, so neither a reference model nor a clipped
ratio is needed. Only sampled tokens are targets, not the prompt or the results of tools. One
difference from nanochat: a round in which no answer is better than the others makes no update,
because momentum alone would move every matrix by a full step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mlx_gpt.data.conversation import Conversation, render_for_completion
from mlx_gpt.engine import Completion, Engine, Request, Sampling
from mlx_gpt.evaluate.gsm8k import is_correct, read_problems, solution_text
from mlx_gpt.evaluate.metrics import pass_at_k, sum_over_ranks
from mlx_gpt.machine import peak_memory, step_threads
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.base_model import finetuning_optimizer, load_base
from mlx_gpt.training.display import RlDisplay
from mlx_gpt.training.plan import largest_divisor
from mlx_gpt.training.policy_gradient import (
    Answer,
    Tally,
    make_group,
    make_passes,
    policy_loss,
    summarize,
)
from mlx_gpt.training.runs import (
    Report,
    explain_divergence,
    is_due,
    restore,
    save_to_run,
    start_run,
    truncate_log,
)
from mlx_gpt.training.settings import RlAnswers, RlConfig
from mlx_trainer import (
    ConfigError,
    Stopped,
    TrainStep,
    check_settings,
    rank,
    stop_requested,
    world_size,
)

# The score of a text as the answer to a conversation, which ends in a reference answer.
Reward = Callable[[Conversation, str], float]

MOMENTUM = 0.95
USUAL_QUESTIONS = 16  # per round, or all if there are fewer
# nanochat's rates here, relative to those of pretraining: 0.2, 0.1 and 0.004.
RATE_SCALES = {"wte": 2 / 3, "value_embeds": 2 / 3, "lm_head": 1 / 2}
# The part of an answer's seed that depends on its purpose.
_TRAIN, _VALID = 0, 1


@dataclass
class Job:
    """A run that is built and ready to train."""

    config: RlConfig
    tokenizer: Tokenizer
    step: TrainStep
    train: Sequence[Conversation]
    valid: Sequence[Conversation]
    reward: Reward

    @property
    def model(self) -> Decoder:
        """The model being trained."""
        return self.step.model  # type: ignore[return-value]

    @property
    def rate(self) -> float:
        """The learning rate of the matrices, before its schedule."""
        return self.step.optimizer.base_rate  # type: ignore[attr-defined]

    @property
    def rows(self) -> int:
        """Answers per pass: a divisor of the answers to a question, at most device_batch_size."""
        answers, training = self.config.answers, self.config.training
        return largest_divisor(answers.samples, training.device_batch_size)

    @property
    def rounds(self) -> int:
        """The number of rounds; each learns from the answers to some questions."""
        return len(self.train) // self.config.answers.questions * self.config.training.epochs


def run_reinforcement(
    config: RlConfig, output: Path, resume: bool = False, overwrite: bool = False
) -> None:
    """Create or resume the run folder, and reinforce on GSM8K."""
    with start_run(partial(build, config), output, resume, overwrite, RlDisplay) as (job, display):
        answers, training = job.config.answers, job.config.training
        unused = len(job.train) * training.epochs - job.rounds * answers.questions
        display.say(
            f"{len(job.train):,} questions, {job.rounds:,} rounds of {answers.questions} with "
            f"{answers.samples} answers each, learned from {job.rows} at once"
            + (f"; {unused:,} that do not fill a round are dropped" if unused else "")
        )
        with explain_divergence(output, "training.initial_rate", training.initial_rate):
            reinforce(job, output, display, resume)
        display.say(f"model: {output / 'model'}")
        display.say(f"next: mlx-gpt chat --model {output}")


def reinforce(job: Job, folder: Path, report: Report, resume: bool = False) -> None:
    """Train, and leave the model in the run's `folder`; `report` gets a dict for each event.

    "updates" in events counts rounds, also those without an update. Under `mlx.launch` rank 0
    writes. `resume` continues from the last checkpoint, bit for bit.
    """
    step, settings = job.step, job.config.report
    done, seconds, tally = 0, 0.0, Tally()
    checkpoints, position = restore(job, folder, ("rounds", "seconds"), resume)
    if position:
        done, seconds = int(position["rounds"]), float(position["seconds"])
        tally = Tally(**position.get("tally", {}))
    truncate_log(folder, done)
    report({"event": "start", "updates": done, "steps": job.rounds})
    if job.valid and done == 0:
        report(evaluate(job, done))
    with stop_requested() as stopping:
        while done < job.rounds:
            began = time.perf_counter()
            groups = answer(job, done)
            scale = job.config.training.initial_rate * (1 - done / job.rounds)
            loss = learn(job, groups, scale)
            done += 1
            taken = time.perf_counter() - began
            seconds += taken
            found = summarize(groups)
            report({
                "event": "update", "updates": done, "loss": loss, **found,
                "tokens_per_second": found["tokens"] / taken, "rate_scale": scale,
                "seconds": seconds, "peak_memory": peak_memory(),
            })  # fmt: skip
            tally.add(found)
            last = done == job.rounds or tally.is_unrewarded(job.config.training.unrewarded_rounds)
            if last or is_due(settings.evaluate_every, done):
                report({"event": "tally", "updates": done, **vars(tally)})
            if job.valid and (last or is_due(settings.evaluate_every, done)):
                report(evaluate(job, done))
            stop = 0 if last else stopping()
            if last or stop or checkpoints.due(done):
                position = {"rounds": done, "seconds": seconds, "tally": vars(tally)}
                checkpoints.save(step, position | {"tokenizer": job.tokenizer.identity})
            if stop:
                save_to_run(job.model, job.tokenizer, folder)
                raise Stopped(stop, f"a checkpoint of update {done} is in {folder}")
            if last:
                break
    tally.check()
    save_to_run(job.model, job.tokenizer, folder)
    report({"event": "end", "updates": done, "seconds": seconds})


def gsm8k_reward(conversation: Conversation, text: str) -> float:
    """Return 1 if the text ends in the number that the conversation's solution ends in, else 0."""
    return float(is_correct(text, solution_text(dict(conversation))))


def build(
    config: RlConfig,
    reward: Reward = gsm8k_reward,
    train: Sequence[Conversation] | None = None,
    valid: Sequence[Conversation] | None = None,
) -> Job:
    """Load the model, and the problems unless conversations are given.

    Each conversation ends in a reference answer, which only `reward` sees. Raises `ValueError` if
    the settings do not fit.
    """
    training, data = config.training, config.data
    check_settings(config)
    _check(config)
    model, tokenizer = load_base(config.model, training.dtype, training.checkpoint_blocks)
    rows = largest_divisor(config.answers.samples, training.device_batch_size)
    threads = step_threads(training.threads, rows)
    optimizer = finetuning_optimizer(
        model, 2**19, training.learning_rate, MOMENTUM, RATE_SCALES, threads
    )
    step = TrainStep(model, optimizer, policy_loss, max_grad_norm=None, threads=threads)  # type: ignore[arg-type]
    step.prepare()  # a checkpoint may be saved before the first update
    train = read_problems(Path(data.train)) if train is None else train
    if valid is None:
        valid = read_problems(Path(data.valid)) if data.valid else ()
    config = replace(config, answers=_with_questions(config.answers, len(train)))
    return Job(config, tokenizer, step, train, valid, reward)


def _check(config: RlConfig) -> None:
    answers = config.answers
    if answers.samples < 2:
        raise ConfigError(
            f"answers.samples must be at least 2, to compare answers, got {answers.samples}"
        )
    if answers.questions % world_size():
        raise ConfigError(
            f"answers.questions {answers.questions} is not a multiple of {world_size()} processes"
        )


def _with_questions(answers: RlAnswers, total: int) -> RlAnswers:
    """Return the settings with the number of questions per round filled in."""
    count = answers.questions or min(USUAL_QUESTIONS, total) // world_size() * world_size()
    if not 0 < count <= total:
        raise ConfigError(
            f"got {total} questions, fewer than the {count or world_size()} of a round "
            "(answers.questions)"
        )
    return replace(answers, questions=count)


def questions_of(job: Job, done: int) -> list[int]:
    """Return the indices of this rank's questions in the round after `done` rounds."""
    count = job.config.answers.questions
    return [(done * count + i) % len(job.train) for i in range(rank(), count, world_size())]


def answer(job: Job, done: int) -> list[list[Answer]]:
    """Return the answers to each of this rank's questions in the round after `done` rounds."""
    numbers = questions_of(job, done)
    conversations = [job.train[number] for number in numbers]
    keys = [(_TRAIN, done, number) for number in numbers]
    prompts, drawn = draw(job, conversations, job.config.answers.samples, keys)
    groups = []
    for conversation, prompt, completions in zip(conversations, prompts, drawn, strict=True):
        rewards = [job.reward(conversation, each.text) for each in completions]
        groups.append(make_group(prompt, completions, rewards))
    return groups


def draw(
    job: Job, conversations: Sequence[Conversation], samples: int, keys: Sequence[tuple[int, ...]]
) -> tuple[list[list[int]], list[list[Completion]]]:
    """Return the prompt of each conversation and `samples` answers, seeded by its key."""
    settings = job.config.answers
    prompts = [render_for_completion(job.tokenizer, each) for each in conversations]
    requests: list[Request] = []
    for prompt, key in zip(prompts, keys, strict=True):
        source = np.random.SeedSequence((job.config.training.seed, *key))
        seed = int(source.generate_state(1, np.uint64)[0])
        sampling = Sampling(settings.temperature, settings.top_k, seed=seed)
        requests += Request(prompt, settings.max_tokens, sampling).repeat(samples)
    found = Engine(job.model, job.tokenizer).generate(requests, settings.batch_size)
    return prompts, [found[i : i + samples] for i in range(0, len(found), samples)]


def learn(job: Job, groups: list[list[Answer]], scale: float) -> float:
    """Make the answers with an advantage likelier; return the loss, 0 if nothing was learned."""
    batches = make_passes(groups, job.rows, job.tokenizer.bos_id)
    if not sum_over_ranks(np.array([any(each["weights"].any() for each in batches)])):
        return 0.0
    loss, _ = job.step(batches, scale * job.rate)
    return float(loss)


def evaluate(job: Job, done: int) -> dict:
    """Return the event with pass@1, pass@2, ...: the chance that one of k answers has a reward."""
    began = time.perf_counter()
    settings = job.config.report
    chosen = job.valid[: settings.evaluation_questions]
    samples = settings.evaluation_samples
    mine = range(rank(), len(chosen), world_size())
    conversations = [chosen[number] for number in mine]
    _, drawn = draw(job, conversations, samples, [(_VALID, number) for number in mine])
    passed = np.zeros(samples)
    for conversation, completions in zip(conversations, drawn, strict=True):
        correct = sum(job.reward(conversation, each.text) > 0 for each in completions)
        passed += [pass_at_k(samples, correct, k) for k in range(1, samples + 1)]
    passed = sum_over_ranks(passed) / len(chosen)
    rates = {f"pass@{k}": float(value) for k, value in enumerate(passed, start=1)}
    seconds = time.perf_counter() - began
    return {"event": "evaluate", "updates": done, **rates, "evaluation_seconds": seconds}
