"""CORE (DCLM, arXiv 2406.11794): tasks for base models, scored by likelihood.

In multiple choice and schema tasks the answer is the option with the lowest mean loss of its
continuation; in language modeling tasks it is correct if greedy decoding yields the continuation.
Prompts, shots, and where continuations begin are as in nanochat, so that scores are comparable.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from mlx_gpt.evaluate.core_tasks import CoreTask, Example, Kind
from mlx_gpt.evaluate.likelihood import Continuation, are_greedy, mean_losses
from mlx_gpt.evaluate.metrics import TaskResult, measure_accuracy
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer.loading import AnyTokenizer

_SHOTS_SEED = 1234  # for question n: this + n


def evaluate_core_task(
    model: Decoder,
    tokenizer: AnyTokenizer,
    task: CoreTask,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> TaskResult:
    """Return the accuracy on a task; `batch_size` rows are computed at once.

    Unlike in nanochat, prompts longer than the model's `sequence_len` lose their beginning.
    Progress and ranks are as in `measure_accuracy`.
    """

    def count_correct(numbers: Sequence[int]) -> int:
        return int(are_correct(model, tokenizer, task, numbers, batch_size).sum())

    count = len(task.examples)
    accuracy = measure_accuracy(count, count_correct, advance)
    return TaskResult(task.name, task.kind, count, accuracy, task.baseline)


def are_correct(
    model: Decoder,
    tokenizer: AnyTokenizer,
    task: CoreTask,
    numbers: Sequence[int],
    batch_size: int,
) -> np.ndarray:
    """Return whether the model solves the examples at these indices, bool (numbers,)."""
    if task.kind == "language_modeling":
        questions = _tokenize(model, tokenizer, task, numbers)
        return are_greedy(model, [row for rows in questions for row in rows], batch_size)
    answers = choose_options(model, tokenizer, task, numbers, batch_size)
    return np.array(answers) == [task.examples[number].gold for number in numbers]


def choose_options(
    model: Decoder,
    tokenizer: AnyTokenizer,
    task: CoreTask,
    numbers: Sequence[int],
    batch_size: int,
) -> list[int]:
    """Return the index of the option with the lowest mean loss for each of these examples."""
    questions = _tokenize(model, tokenizer, task, numbers)
    losses = iter(mean_losses(model, [row for rows in questions for row in rows], batch_size))
    return [int(np.argmin([next(losses) for _ in rows])) for rows in questions]


def _tokenize(
    model: Decoder, tokenizer: AnyTokenizer, task: CoreTask, numbers: Sequence[int]
) -> list[list[Continuation]]:
    """Return the continuations of each example's options."""
    return [
        make_continuations(
            [tokenizer.prompt_ids(text) for text in make_prompts(task, number)],
            task.kind,
            model.config.sequence_len,
        )
        for number in numbers
    ]


def make_prompts(task: CoreTask, number: int) -> list[str]:
    """Return the prompts of example `number`, one for each option.

    A language modeling example has two: without and with its continuation.
    """
    example = task.examples[number]
    shots = ""
    for other in _draw_shots(task, number):
        shots += task.delimiter.join(other.pairs[other.gold]) + "\n\n"
    texts = [shots + task.delimiter.join(pair) for pair in example.pairs]
    if task.kind == "language_modeling":
        # Without trailing space, which belongs to the first token of the continuation.
        texts.insert(0, (shots + example.pairs[0][0] + task.delimiter).rstrip())
    return texts


def _draw_shots(task: CoreTask, number: int) -> list[Example]:
    others = [other for i, other in enumerate(task.examples) if i != number]
    return random.Random(_SHOTS_SEED + number).sample(others, task.shots)


def make_continuations(
    rows: Sequence[Sequence[int]], kind: Kind, max_length: int
) -> list[Continuation]:
    """Return the continuation of each option, from the tokens of `make_prompts`.

    It begins after the prefix that all rows share; in a schema it is the suffix that they share.
    Tokens are compared, not texts, because a token may span the end of a text. It has at least one
    token, even if an option is a prefix of another. Rows keep their last `max_length` tokens.
    """
    is_schema = kind == "schema"
    shared = _shared_length([row[::-1] for row in rows] if is_schema else rows)
    rows = rows[1:] if kind == "language_modeling" else rows
    shared = min(shared, min(len(row) for row in rows) - 1)
    starts = [len(row) - shared if is_schema else shared for row in rows]
    return [_last_tokens(row, start, max_length) for row, start in zip(rows, starts, strict=True)]


def _shared_length(rows: Sequence[Sequence[int]]) -> int:
    """Return the length of the prefix that all rows share."""
    shortest = min(len(row) for row in rows)
    for place in range(shortest):
        if any(row[place] != rows[0][place] for row in rows):
            return place
    return shortest


def _last_tokens(ids: Sequence[int], start: int, max_length: int) -> Continuation:
    cut = max(0, len(ids) - max_length)
    return Continuation(ids[cut:], max(1, start - cut))
