"""Reinforcement learning on questions whose answers can be checked: build, loop, save.

nanochat's: REINFORCE (Williams 1992) on groups of answers to the same question. The advantage of an
answer is its reward minus the mean of its group, all tokens of a pass count alike (arXiv
2503.14476), and there is neither a reference model nor a ratio to clip, as each update draws its
answers anew. Only drawn tokens are learned: not the prompt, and not what a tool answered. What
differs from nanochat: where no answer is better than the others, no update is made, since momentum
alone would move every matrix by a full step. The loop is `reinforce`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np

from mlx_gpt.conversation import Conversation, render_for_completion
from mlx_gpt.engine import Completion, Engine, Request, Sampling
from mlx_gpt.evaluate.gsm8k import is_correct, pass_at_k, read_problems, solution_of
from mlx_gpt.evaluate.ranks import sum_over_ranks
from mlx_gpt.finetuning import load_base, optimizer_for
from mlx_gpt.machine import peak_memory, step_threads
from mlx_gpt.models.formats import Decoder
from mlx_gpt.policy_gradient import Answer, group_of, loss_fn, passes, summary
from mlx_gpt.pretrain import Report, due, save
from mlx_gpt.tokenizer import Tokenizer
from mlx_trainer import (
    Checkpoints,
    RunFolder,
    Stopped,
    TrainStep,
    rank,
    stop_requested,
    world_size,
)

# How good a text is as the answer to a conversation, whose own answer the function may look at.
Reward = Callable[[Conversation, str], float]

MOMENTUM = 0.95
# nanochat's rates here, relative to those of pretraining: 0.2, 0.1 and 0.004.
RATE_SCALES = {"wte": 2 / 3, "value_embeds": 2 / 3, "lm_head": 1 / 2}
# What must be at least 1.
_SIZES = (
    *("answers.questions", "answers.max_tokens", "answers.batch_size"),
    *("training.device_batch_size", "training.epochs"),
    *("report.evaluation_questions", "report.evaluation_samples"),
)
# What answers are drawn for, so that seeds differ.
_TRAIN, _VALID = 0, 1


@dataclass(frozen=True)
class DataConfig:
    """Problems with solutions that end in `#### number`, as `gsm8k.read_problems` reads them."""

    train: str
    valid: str | None = None


@dataclass(frozen=True)
class AnswerConfig:
    """How answers are drawn."""

    questions: int = 16  # an update, of all processes
    samples: int = 16  # a question
    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 50
    batch_size: int = 64  # answers drawn at once by one process


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast."""

    epochs: int = 1
    device_batch_size: int = 8  # answers of a pass
    learning_rate: float = 0.02  # of the matrices; all others keep their ratio to it
    initial_rate: float = 0.05  # share of the rates to begin with; it falls to 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: float32 on a CPU
    checkpoint_blocks: bool = False
    threads: int = 0  # on a CPU; 0: as many as cores
    seed: int = 0  # of the answers


@dataclass(frozen=True)
class ReportConfig:
    """How often to look, and to save; 0 is never (but at the end)."""

    evaluate_every: int = 60
    evaluation_questions: int = 400
    evaluation_samples: int = 8
    checkpoint_every: int = 60
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 1


@dataclass(frozen=True)
class RlConfig:
    """A run of reinforcement learning, as its config.yaml has it; `model` is a folder."""

    model: str
    data: DataConfig
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


@dataclass
class Job:
    """What `build` makes of a configuration; `train` and `valid` are conversations."""

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
    def rounds(self) -> int:
        """How often questions are asked, and learned from."""
        return len(self.train) // self.config.answers.questions * self.config.training.epochs


def reinforce(job: Job, folder: Path, report: Report, resume: bool = False) -> None:
    """Train, and leave the model in the run's `folder`; `report` is given a dict for each event.

    "updates" in events counts rounds of questions, also those that nothing was learned from.
    Under `mlx.launch` rank 0 writes. With `resume` the last checkpoint goes on, bit for bit.
    """
    step, settings = job.step, job.config.report
    checkpoints = Checkpoints(
        folder / "checkpoints",
        settings.keep_checkpoints,
        settings.checkpoint_every,
        settings.checkpoint_seconds,
    )
    done, seconds = 0, 0.0
    if resume and (position := checkpoints.load(step)):
        done, seconds = int(position["rounds"]), float(position["seconds"])  # type: ignore[arg-type]
    if rank() == 0:
        RunFolder(folder).truncate_after(done or -1)  # at 0 all is logged again
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
            found = summary(groups)
            report({
                "event": "update", "updates": done, "loss": loss, **found,
                "tokens_per_second": found["tokens"] / taken, "rate_scale": scale,
                "seconds": seconds, "peak_memory": peak_memory(),
            })  # fmt: skip
            last = done == job.rounds
            if job.valid and (last or due(settings.evaluate_every, done)):
                report(evaluate(job, done))
            stop = 0 if last else stopping()
            if last or stop or checkpoints.due(done):
                checkpoints.save(step, {"rounds": done, "seconds": seconds})
            if stop:
                save(job.model, job.tokenizer, folder)
                raise Stopped(stop, f"a checkpoint of update {done} is in {folder}")
    save(job.model, job.tokenizer, folder)
    report({"event": "end", "updates": done, "seconds": seconds})


def gsm8k_reward(conversation: Conversation, text: str) -> float:
    """Return 1 if the text ends in the number that the conversation's solution ends in, else 0."""
    return float(is_correct(text, solution_of(dict(conversation))))


def build(
    config: RlConfig,
    reward: Reward = gsm8k_reward,
    train: Sequence[Conversation] | None = None,
    valid: Sequence[Conversation] | None = None,
) -> Job:
    """Load the model, and the problems where no conversations are given.

    The answer that ends each conversation is for `reward` to compare with; the model is asked for
    one of its own. Raises `ValueError` where the settings do not fit.
    """
    training, data = config.training, config.data
    _check(config)
    model, tokenizer = load_base(config.model, training.dtype, training.checkpoint_blocks)
    threads = step_threads(training.threads, training.device_batch_size)
    optimizer = optimizer_for(model, 2**19, training.learning_rate, MOMENTUM, RATE_SCALES, threads)
    step = TrainStep(model, optimizer, loss_fn, max_grad_norm=None, threads=threads)  # type: ignore[arg-type]
    step.prepare()  # what a checkpoint saves must be there before the first round that teaches
    train = read_problems(Path(data.train)) if train is None else train
    if valid is None:
        valid = read_problems(Path(data.valid)) if data.valid else ()
    if len(train) < config.answers.questions:
        raise ValueError(
            f"there are {len(train)} questions, fewer than the {config.answers.questions} of an "
            "update (answers.questions)"
        )
    return Job(config, tokenizer, step, train, valid, reward)


def _check(config: RlConfig) -> None:
    answers, rows = config.answers, config.training.device_batch_size
    for name in _SIZES:
        if (value := attrgetter(name)(config)) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if answers.samples < 2:
        raise ValueError(
            f"answers.samples must be at least 2, as answers are compared, got {answers.samples}"
        )
    if answers.samples % rows:
        raise ValueError(
            f"answers.samples {answers.samples} is not a multiple of training.device_batch_size "
            f"{rows}"
        )
    if answers.questions % world_size():
        raise ValueError(
            f"answers.questions {answers.questions} is not a multiple of {world_size()} processes"
        )


def questions_of(job: Job, done: int) -> list[int]:
    """Return the indices of this rank's questions in the round after `done` rounds."""
    count = job.config.answers.questions
    return [(done * count + i) % len(job.train) for i in range(rank(), count, world_size())]


def answer(job: Job, done: int) -> list[list[Answer]]:
    """Return the answers to each of this rank's questions after `done` rounds."""
    numbers = questions_of(job, done)
    conversations = [job.train[number] for number in numbers]
    keys = [(_TRAIN, done, number) for number in numbers]
    prompts, drawn = draw(job, conversations, job.config.answers.samples, keys)
    groups = []
    for conversation, prompt, completions in zip(conversations, prompts, drawn, strict=True):
        rewards = [job.reward(conversation, each.text) for each in completions]
        groups.append(group_of(prompt, completions, rewards))
    return groups


def draw(
    job: Job, conversations: Sequence[Conversation], samples: int, keys: Sequence[tuple[int, ...]]
) -> tuple[list[list[int]], list[list[Completion]]]:
    """Return the prompt of each conversation and `samples` answers to it.

    They depend on the weights, the configuration, and each conversation's key.
    """
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
    batches = passes(groups, job.config.training.device_batch_size, job.tokenizer.bos_id)
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
