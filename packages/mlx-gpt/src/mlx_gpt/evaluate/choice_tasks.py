"""Multiple-choice questions for chat models, answered with a letter.

The answer is the letter with the largest logit at the start of the assistant's message.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mlx_gpt.data.fields import get_gold, get_options, get_text
from mlx_gpt.data.formats import make_conversation
from mlx_gpt.data.rendering import render_prompt
from mlx_gpt.data.rows import read_rows
from mlx_gpt.evaluate.likelihood import padded_batches
from mlx_gpt.evaluate.metrics import TaskResult, measure_accuracy
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer.loading import AnyTokenizer

T = TypeVar("T")

_SHUFFLE_SEED = 42  # nanochat's


@dataclass(frozen=True)
class ChoiceQuestion:
    """A conversation that ends with the correct letter; `gold` is its index in `letters`."""

    conversation: dict[str, Any]
    letters: str
    gold: int


@dataclass(frozen=True)
class ChoiceTask:
    """Questions such as ARC's or MMLU's; `baseline` is the accuracy of guessing."""

    name: str
    examples: tuple[ChoiceQuestion, ...]
    baseline: float


def read_choice_tasks(folder: Path, max_per_task: int | None = None) -> list[ChoiceTask]:
    """Return a task for each `.jsonl` file of the folder whose rows have `choices`.

    Rows have `query`, `choices` and `gold` (index of the correct choice). At most `max_per_task`
    questions are kept, after a shuffle with a fixed seed. Raises `ValueError` with file and line
    for a malformed row, and if no file has choices.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    tasks = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = list(read_rows(path))
        if "choices" in rows[0][1]:
            questions = [_parse_question(row, where) for where, row in rows]
            baseline = sum(1 / len(each.letters) for each in questions) / len(questions)
            kept = tuple(shuffle(questions)[:max_per_task])
            tasks.append(ChoiceTask(path.stem, kept, baseline))
    if not tasks:
        raise ValueError(f"{folder}: no .jsonl file whose rows have 'choices'")
    return tasks


def make_choice_question(question: str, choices: Sequence[str], gold: int) -> ChoiceQuestion:
    """Return the question in nanochat's wording.

    Each letter follows its choice, which is easier for small models. No space precedes the letter,
    so that it is the same token as the answer.
    """
    if len(choices) > len(string.ascii_uppercase):
        raise ValueError(f"a question has at most 26 choices, got {len(choices)}")
    letters = string.ascii_uppercase[: len(choices)]
    listed = "".join(f"- {text}={letter}\n" for text, letter in zip(choices, letters, strict=True))
    prompt = (
        f"Multiple Choice question: {question}\n{listed}\n"
        "Respond only with the letter of the correct answer."
    )
    return ChoiceQuestion(make_conversation(prompt, letters[gold]), letters, gold)


def strip_frame(query: str) -> str:
    """Return a query without its `Question:` and `Answer:`, which are for base models."""
    return query.strip().removeprefix("Question:").removesuffix("Answer:").strip()


def shuffle(items: Sequence[T]) -> list[T]:
    """Return the items in nanochat's order, that of NumPy's generator with seed 42."""
    return [items[i] for i in np.random.default_rng(_SHUFFLE_SEED).permutation(len(items))]


def _parse_question(row: dict, where: str) -> ChoiceQuestion:
    query, choices = get_text(row, "query", where), get_options(row, "choices", where)
    gold = get_gold(row, len(choices), where)
    return make_choice_question(strip_frame(query), choices, gold)


def evaluate_choice_task(
    model: Decoder,
    tokenizer: AnyTokenizer,
    task: ChoiceTask,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> TaskResult:
    """Return the accuracy of the model's letters; `batch_size` questions are computed at once.

    Prompts longer than the model's `sequence_len` lose their beginning.
    Progress and ranks are as in `measure_accuracy`.
    """

    def count_correct(numbers: Sequence[int]) -> int:
        questions = [task.examples[number] for number in numbers]
        letters = choose_letters(model, tokenizer, questions, batch_size)
        return sum(
            letter == question.gold for letter, question in zip(letters, questions, strict=True)
        )

    count = len(task.examples)
    accuracy = measure_accuracy(count, count_correct, advance)
    return TaskResult(task.name, "categorical", count, accuracy, task.baseline)


def choose_letters(
    model: Decoder, tokenizer: AnyTokenizer, questions: Sequence[ChoiceQuestion], batch_size: int
) -> list[int]:
    """Return for each question the index of the letter with the largest logit."""
    max_length = model.config.sequence_len
    rows = [
        render_prompt(tokenizer, each.conversation["messages"][:-1])[-max_length:]
        for each in questions
    ]
    chosen = [0] * len(rows)
    for numbers, ids in padded_batches(rows, batch_size, max_length):
        last = mx.array([len(rows[number]) - 1 for number in numbers])
        states = model.hidden_states(mx.array(ids))[mx.arange(len(numbers)), last]  # (B, D)
        logits = np.array(model.logits(states))
        for row, number in enumerate(numbers):
            letters = [_letter_id(tokenizer, letter) for letter in questions[number].letters]
            chosen[number] = int(logits[row, letters].argmax())
    return chosen


def _letter_id(tokenizer: AnyTokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise ValueError(f"the letter {letter!r} must be one token, but is {ids} here")
    return ids[0]
