"""Multiple-choice questions for chat models, asked in words and answered with a letter."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mlx_gpt.evaluate.rows import gold_of, options_of, read_rows, text_of

T = TypeVar("T")

# nanochat's seed of the order in which chat questions are asked.
_SHUFFLE_SEED = 42


@dataclass(frozen=True)
class ChoiceQuestion:
    """A conversation whose last message is the right letter; `gold` is its index in `letters`."""

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

    Rows are `query`, `choices` and `gold` (index of the right choice). At most `max_per_task`
    questions are kept, after a shuffle that is always the same. Raises `ValueError` with file and
    line for a malformed row, and where no file has choices.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    tasks = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = list(read_rows(path))
        if "choices" in rows[0][1]:
            questions = [_question_of(row, where) for where, row in rows]
            baseline = sum(1 / len(each.letters) for each in questions) / len(questions)
            kept = tuple(shuffled(questions)[:max_per_task])
            tasks.append(ChoiceTask(path.stem, kept, baseline))
    if not tasks:
        raise ValueError(f"{folder}: no .jsonl file whose rows have 'choices'")
    return tasks


def choice_question(question: str, choices: Sequence[str], gold: int) -> ChoiceQuestion:
    """Return the question as nanochat words it.

    Each letter follows its choice, which small models bind better, and no space comes before it,
    so that it is the very token of the answer.
    """
    if len(choices) > len(string.ascii_uppercase):
        raise ValueError(f"a question has at most 26 choices, got {len(choices)}")
    letters = string.ascii_uppercase[: len(choices)]
    listed = "".join(f"- {text}={letter}\n" for text, letter in zip(choices, letters, strict=True))
    prompt = (
        f"Multiple Choice question: {question}\n{listed}\n"
        "Respond only with the letter of the correct answer."
    )
    messages = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": letters[gold]},
    ]
    return ChoiceQuestion({"messages": messages}, letters, gold)


def bare_question(query: str) -> str:
    """Return a query without the words `Question:` and `Answer:` that frame it for base models."""
    return query.strip().removeprefix("Question:").removesuffix("Answer:").strip()


def shuffled(items: Sequence[T]) -> list[T]:
    """Return the items in nanochat's order, that of NumPy's generator with seed 42."""
    return [items[i] for i in np.random.default_rng(_SHUFFLE_SEED).permutation(len(items))]


def _question_of(row: dict, where: str) -> ChoiceQuestion:
    query, choices = text_of(row, "query", where), options_of(row, "choices", where)
    return choice_question(bare_question(query), choices, gold_of(row, len(choices), where))
