"""Greedy answers to the questions of a file, compared with its answers.

Rows are of any layout with a question and an answer; of a chat the last message of the assistant
is the answer. Texts are compared without regard to case, to white space around and within them,
and to a final full stop (Unicode NFKC). With `answer="number"` the last number of a text counts,
after `####` if there is one, as in GSM8K; 18 equals 18.00.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_gpt.data.layouts import Chat, Completion, parse_row
from mlx_gpt.data.rendering import has_chat_format, render_prompt
from mlx_gpt.data.rows import read_rows
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Completion as Answer
from mlx_gpt.engine.requests import Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.evaluate.choice_tasks import shuffle
from mlx_gpt.evaluate.gsm8k import solution_text
from mlx_gpt.evaluate.metrics import sum_over_ranks
from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_trainer import rank, world_size

AnswerKind = Literal["text", "number"]

_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_SHOWN = 3  # wrong answers


@dataclass(frozen=True)
class Question:
    """The ids of a prompt, the normalized answer, and the place of the row."""

    prompt: list[int]
    answer: str
    where: str


def read_questions(
    path: Path, tokenizer: AnyTokenizer, answer: AnswerKind = "text", limit: int | None = None
) -> tuple[list[Question], int]:
    """Return at most `limit` questions, after a shuffle with a fixed seed, and how many there are.

    Raises `ValueError` with file and line for a malformed row, or one without a question.
    """
    questions = []
    for where, row in read_rows(path):
        try:
            prompt, reference = _parse(row, tokenizer)
            expected = normalize(reference, answer)
            if not expected:
                raise ValueError(f"no {answer} in the answer {reference[:60]!r}")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        questions.append(Question(prompt, expected, where))
    return (shuffle(questions)[:limit] if limit else questions), len(questions)


def normalize(text: str, answer: AnswerKind = "text") -> str:
    """Return what is compared of a text; "" if it has none, as no number."""
    if answer == "text":
        folded = unicodedata.normalize("NFKC", text).casefold()
        return " ".join(folded.split()).removesuffix(".").rstrip()
    _, mark, after = text.partition("####")
    found = _NUMBER.findall(after if mark else text)
    if not found:
        return ""
    number = Decimal((found[0] if mark else found[-1]).replace(",", ""))
    return format(number.normalize() + 0, "f")  # + 0: no minus zero


def evaluate_exact_match(
    engine: Engine,
    questions: Sequence[Question],
    answer: AnswerKind = "text",
    max_tokens: int = 512,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Return the share of questions whose greedy answer is the expected one.

    `most_frequent` is the accuracy of always giving the most frequent of the expected answers.
    Prompts that leave no room in the model's context lose their beginning, and `cut_answers` did
    not end within `max_tokens`; both are counted. Under `mlx.launch` ranks share the questions.
    """
    mine = range(rank(), len(questions), world_size())
    context = engine.model.config.sequence_len
    correct = cut = shortened = 0
    wrong: list[dict[str, str]] = []
    for begin in range(0, len(mine), batch_size):
        chosen = [questions[number] for number in mine[begin : begin + batch_size]]
        requests = [_request(each.prompt, max_tokens, context) for each in chosen]
        shortened += sum(len(each.prompt) >= context for each in chosen)
        for question, given in zip(chosen, engine.generate(requests, batch_size), strict=True):
            found = normalize(given.text, answer)
            correct += found == question.answer
            cut += given.finish_reason == "length"
            if found != question.answer and len(wrong) < _SHOWN:
                wrong.append(_show(question, given))
        if advance:
            advance(len(chosen))
    correct, cut, shortened = sum_over_ranks(np.array([correct, cut, shortened]))
    ((common, times),) = Counter(each.answer for each in questions).most_common(1)
    return {
        "questions": len(questions),
        "accuracy": float(correct / len(questions)),
        "most_frequent": {"answer": common, "accuracy": times / len(questions)},
        "compared": answer,
        "cut_answers": int(cut),
        "shortened_prompts": int(shortened),
        "wrong": wrong,
    }


def _parse(row: dict[str, Any], tokenizer: AnyTokenizer) -> tuple[list[int], str]:
    """Return the prompt and the text of the answer."""
    name, sample = parse_row(row)
    if isinstance(sample, Completion):
        if not has_chat_format(tokenizer):
            return tokenizer.prompt_ids(sample.prompt), sample.completion
        sample = sample.as_chat()
    if not isinstance(sample, Chat):
        raise ValueError(f"the {name} layout has no question and answer")
    last = max(i for i, each in enumerate(sample.messages) if each["role"] == "assistant")
    if sample.messages[last].get("tool_calls"):
        raise ValueError("the answer is a call of a tool, which is not compared")
    reference = solution_text({"messages": sample.messages[: last + 1]})
    return render_prompt(tokenizer, sample.messages[:last], sample.tools), reference


def _request(prompt: Sequence[int], max_tokens: int, context: int) -> Request:
    kept = prompt[-(context - 1) :] if context > 1 else prompt
    return Request(kept, min(max_tokens, context - len(kept)), Sampling(temperature=0.0))


def _show(question: Question, given: Answer) -> dict[str, str]:
    return {"where": question.where, "expected": question.answer, "answer": given.text[:200]}
