"""GSM8K (arXiv 2110.14168): word problems whose solutions end in `#### number`.

Solutions annotate calculations as `<<expression=result>>`; here these become calls of the chat
model's calculator. A generated answer is correct if its final number is.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gpt.data.fields import get_text
from mlx_gpt.data.formats import make_conversation, solution_parts
from mlx_gpt.data.rendering import render_prompt
from mlx_gpt.data.rows import read_rows
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.evaluate.choice_tasks import shuffle
from mlx_gpt.evaluate.metrics import TaskResult, pass_at_k, sum_over_ranks
from mlx_trainer import rank, world_size

# nanochat's settings for pass@k.
TEMPERATURE = 1.0
TOP_K = 50

_ANSWER = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)")
# Keys of rows that have pairs of texts instead of messages.
_PAIRS = {"question": "answer", "prompt": "completion"}


def read_problems(path: Path, max_problems: int | None = None) -> list[dict[str, Any]]:
    """Return the conversations of a JSON lines file, in the order of nanochat's evaluation.

    Solutions are parts with calculator calls. Rows have `messages`, or `question` and `answer`, or
    `prompt` and `completion`. Raises `ValueError` with file and line for a malformed row or a
    solution without `#### number`.
    """
    problems = []
    for where, row in read_rows(path):
        question, solution = _parse_row(row, where)
        if extract_answer(solution) is None:
            raise ValueError(f"{where}: the solution has no '#### number'")
        problems.append(make_problem(question, solution))
    return shuffle(problems)[:max_problems]


def make_problem(question: str, solution: str) -> dict[str, Any]:
    """Return the conversation of a question and its solution, annotations as parts."""
    return make_conversation(question, solution_parts(solution))


def solution_text(conversation: dict[str, Any]) -> str:
    """Return the text of a conversation's last message, without calculator calls."""
    content = conversation["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def extract_answer(text: str) -> str | None:
    """Return the first number after `#### `, without commas and a final full stop, or None."""
    for found in _ANSWER.findall(text):
        number = found.replace(",", "").rstrip(".")
        if _parse_number(number) is not None:
            return number
    return None


def is_correct(completion_text: str, reference: str) -> bool:
    """Return whether a completion's answer is the number of the reference solution.

    Numbers are compared by value: 18 equals 18.00. `reference` ends in `#### number`, or is a
    number.
    """
    expected = _parse_number(extract_answer(reference) or reference.strip().replace(",", ""))
    if expected is None:
        raise ValueError(f"the reference has no '#### number': {reference!r}")
    answer = extract_answer(completion_text)
    return answer is not None and _parse_number(answer) == expected


def evaluate_gsm8k(
    engine: Engine,
    problems: Sequence[dict[str, Any]],
    samples: int = 1,
    max_tokens: int = 512,
    batch_size: int = 16,
    seed: int = 0,
    advance: Callable[[int], object] | None = None,
) -> TaskResult:
    """Return the accuracy on problems of `read_problems`.

    A single answer is decoded greedily; several `samples` use temperature 1 and top-k 50, and add
    pass@1 to pass@`samples`. `batch_size` answers are generated at once. `advance` is called
    with the number of problems answered. Under `mlx.launch` ranks share the problems and all get
    the result.
    """
    mine = range(rank(), len(problems), world_size())
    at_once = max(1, batch_size // samples)
    passed = np.zeros(samples)
    for begin in range(0, len(mine), at_once):
        numbers = mine[begin : begin + at_once]
        requests = [
            request
            for number in numbers
            for request in _requests(
                render_prompt(engine.tokenizer, problems[number]["messages"][:-1]),
                samples,
                max_tokens,
                seed + number * samples,  # independent of batch size and number of ranks
            )
        ]
        completions = iter(engine.generate(requests, batch_size))
        for number in numbers:
            reference = solution_text(problems[number])
            correct = sum(is_correct(next(completions).text, reference) for _ in range(samples))
            passed += [pass_at_k(samples, correct, k) for k in range(1, samples + 1)]
        if advance:
            advance(len(numbers))
    pass_at = tuple(float(each) for each in sum_over_ranks(passed) / len(problems))
    return TaskResult(
        "gsm8k", "generative", len(problems), pass_at[0], 0.0, pass_at if samples > 1 else ()
    )


def _requests(prompt: list[int], samples: int, max_tokens: int, seed: int) -> list[Request]:
    if samples == 1:
        return [Request(prompt, max_tokens, Sampling(temperature=0.0))]
    sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, seed=seed)
    return Request(prompt, max_tokens, sampling).repeat(samples)


def _parse_number(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _parse_row(row: dict, where: str) -> tuple[str, str]:
    for question, answer in _PAIRS.items():
        if question in row:
            return get_text(row, question, where), get_text(row, answer, where)
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) != 2:
        raise ValueError(f"{where}: expected 'messages' with a question and its solution")
    for message, role in zip(messages, ("user", "assistant"), strict=True):
        if not isinstance(message, dict) or message.get("role") != role:
            raise ValueError(f"{where}: expected a message of the {role}, got {message!r}")
    question, solution = (get_text(message, "content", where) for message in messages)
    return question, solution
