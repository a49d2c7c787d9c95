"""GSM8K (arXiv 2110.14168): word problems, whose solutions calculate and end in `#### number`.

A solution marks what the calculator did as `<<expression=result>>`; here these become calls of the
chat model's tool.
"""

import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from mlx_gpt.evaluate.rows import read_rows, text_of
from mlx_gpt.evaluate.tasks import shuffled

_ANSWER = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)")
_CALL = re.compile(r"<<([^>]+)>>")
# Where files hold pairs of texts in place of messages.
_PAIRS = {"question": "answer", "prompt": "completion"}


def read_problems(path: Path, max_problems: int | None = None) -> list[dict[str, Any]]:
    """Return the conversations of a JSON lines file, in nanochat's order of asking.

    Solutions are parts, so that the calculator is called where it was. Rows have `messages`, or
    `question` and `answer`, or `prompt` and `completion`. Raises `ValueError` with file and line
    for a malformed row or a solution without `#### number`.
    """
    problems = []
    for where, row in read_rows(path):
        question, solution = _texts(row, where)
        if answer_of(solution) is None:
            raise ValueError(f"{where}: the solution has no '#### number'")
        problems.append(problem(question, solution))
    return shuffled(problems)[:max_problems]


def problem(question: str, solution: str) -> dict[str, Any]:
    """Return the conversation of a question and its solution, calculator marks as parts."""
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": solution_parts(solution)},
    ]
    return {"messages": messages}


def solution_parts(solution: str) -> list[dict[str, str]]:
    """Return the parts of a solution: texts, and python and python_output of each `<<...>>`.

    The result is what comes after the last `=`, as in `<<5=5=5>>`; without any it is empty.
    """
    parts = []
    # Texts and what the marks enclose take turns.
    for number, piece in enumerate(_CALL.split(solution)):
        if number % 2:
            expression, _, result = piece.rpartition("=") if "=" in piece else (piece, "", "")
            parts.append({"type": "python", "text": expression})
            parts.append({"type": "python_output", "text": result})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def solution_of(conversation: dict[str, Any]) -> str:
    """Return the text of a conversation's last message, without what the calculator did."""
    content = conversation["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def answer_of(text: str) -> str | None:
    """Return the first number after `#### `, without commas and a closing full stop.

    None where there is no such number.
    """
    for found in _ANSWER.findall(text):
        number = found.replace(",", "").rstrip(".")
        if _value(number) is not None:
            return number
    return None


def is_correct(completion_text: str, reference: str) -> bool:
    """Return whether a completion's answer is the number of the reference solution.

    Numbers are compared by value: 18 is 18.00. `reference` ends in `#### number`, or is a number.
    """
    right = _value(answer_of(reference) or reference.strip().replace(",", ""))
    if right is None:
        raise ValueError(f"the reference has no '#### number': {reference!r}")
    answer = answer_of(completion_text)
    return answer is not None and _value(answer) == right


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the chance that one of k samples is correct, when `correct` of `samples` are.

    1 - C(n - c, k) / C(n, k), without bias (arXiv 2107.03374).
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(
            f"pass@k needs 0 <= correct <= samples and 1 <= k <= samples, "
            f"got correct={correct}, samples={samples}, k={k}"
        )
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def _value(number: str) -> Decimal | None:
    return Decimal(number) if _NUMBER.fullmatch(number) else None


def _texts(row: dict, where: str) -> tuple[str, str]:
    for question, answer in _PAIRS.items():
        if question in row:
            return text_of(row, question, where), text_of(row, answer, where)
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) != 2:
        raise ValueError(f"{where}: expected 'messages' with a question and its solution")
    for message, role in zip(messages, ("user", "assistant"), strict=True):
        if not isinstance(message, dict) or message.get("role") != role:
            raise ValueError(f"{where}: expected a message of the {role}, got {message!r}")
    question, solution = (text_of(message, "content", where) for message in messages)
    return question, solution
