"""CORE (DCLM, arXiv 2406.11794): questions asked of a base model, scored by likelihood.

Of a multiple choice or a schema the option with the lowest mean loss of its continuation is the
answer; a last word is right where it is what greedy decoding gives. Prompts, shots, and where
continuations begin are as in nanochat, so that scores can be compared.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from mlx_gpt.evaluate.continuations import Continuation, are_greedy, mean_losses
from mlx_gpt.evaluate.core_bundle import CoreTask, Example, Kind
from mlx_gpt.evaluate.ranks import sum_over_ranks
from mlx_gpt.evaluate.results import TaskResult
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer import Tokenizer
from mlx_trainer import rank, world_size

# Shots of question n are drawn with this seed + n.
_SHOTS_SEED = 1234
# So many questions are tokenized and sorted by length at once.
_QUESTIONS = 128


def evaluate_core_task(
    model: Decoder,
    tokenizer: Tokenizer,
    task: CoreTask,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> TaskResult:
    """Return the accuracy on a task; `batch_size` rows are computed at once.

    Prompts longer than the model's `sequence_len` lose their beginning, where nanochat reads them
    whole. `advance` is told how many questions were answered. Under `mlx.launch` ranks share the
    questions and all get the result.
    """
    correct = 0
    mine = range(rank(), len(task.examples), world_size())
    for begin in range(0, len(mine), _QUESTIONS):
        numbers = mine[begin : begin + _QUESTIONS]
        correct += int(are_correct(model, tokenizer, task, numbers, batch_size).sum())
        if advance:
            advance(len(numbers))
    total = float(sum_over_ranks(np.array([correct]))[0])
    count = len(task.examples)
    return TaskResult(task.name, task.kind, count, total / count, task.baseline)


def are_correct(
    model: Decoder,
    tokenizer: Tokenizer,
    task: CoreTask,
    numbers: Sequence[int],
    batch_size: int,
) -> np.ndarray:
    """Return whether the model solves the examples of these numbers, bool (numbers,)."""
    texts = [prompts(task, number) for number in numbers]
    ids = iter(tokenizer.encode_batch([text for each in texts for text in each]))
    questions = [
        continuations(
            [[tokenizer.bos_id, *next(ids)] for _ in each], task.kind, model.config.sequence_len
        )
        for each in texts
    ]
    rows = [row for rows in questions for row in rows]
    if task.kind == "language_modeling":
        return are_greedy(model, rows, batch_size)
    losses = iter(mean_losses(model, rows, batch_size))
    answers = [int(np.argmin([next(losses) for _ in rows])) for rows in questions]
    return np.array(answers) == [task.examples[number].gold for number in numbers]


def prompts(task: CoreTask, number: int) -> list[str]:
    """Return the prompts of example `number`: one for each option.

    For a last word there are two: without it and with it.
    """
    example = task.examples[number]
    shots = ""
    for other in _draw_shots(task, number):
        shots += task.delimiter.join(other.pairs[other.gold]) + "\n\n"
    texts = [shots + task.delimiter.join(pair) for pair in example.pairs]
    if task.kind == "language_modeling":
        # Without the space at the end, which will be part of the last word's first token.
        texts.insert(0, (shots + example.pairs[0][0] + task.delimiter).rstrip())
    return texts


def _draw_shots(task: CoreTask, number: int) -> list[Example]:
    others = [other for i, other in enumerate(task.examples) if i != number]
    return random.Random(_SHOTS_SEED + number).sample(others, task.shots)


def continuations(rows: Sequence[Sequence[int]], kind: Kind, longest: int) -> list[Continuation]:
    """Return what the model must rate: a row for each option, from the tokens of `prompts`.

    Where a continuation begins is told by the tokens, as the end of the prefix that all rows share,
    or in a schema as the begin of their suffix: tokens may reach over the end of a text. At least
    one token is the continuation, also where an option is the beginning of another. Rows have at
    most `longest` tokens, the last ones.
    """
    is_schema = kind == "schema"
    shared = _shared_length([row[::-1] for row in rows] if is_schema else rows)
    rated = rows[1:] if kind == "language_modeling" else rows
    shared = min(shared, min(len(row) for row in rated) - 1)
    starts = [len(row) - shared if is_schema else shared for row in rated]
    return [_last_tokens(row, start, longest) for row, start in zip(rated, starts, strict=True)]


def _shared_length(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share."""
    shortest = min(len(row) for row in rows)
    for place in range(shortest):
        if any(row[place] != rows[0][place] for row in rows):
            return place
    return shortest


def _last_tokens(ids: Sequence[int], start: int, longest: int) -> Continuation:
    cut = max(0, len(ids) - longest)
    return Continuation(ids[cut:], max(1, start - cut))
