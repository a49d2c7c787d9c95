"""Mixtures of conversations for `mlx-gpt sft`: files of any layout of `layouts`, repeated."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlx_gpt.data.conversation import Conversation, check_conversation
from mlx_gpt.data.layouts import Chat, Completion, parse_row
from mlx_gpt.data.rows import read_rows

_GSM8K = "gsm8k:"  # prefix of a source whose answers have GSM8K's calculator annotations
_ANNOTATION = re.compile(r"<<([^>]+)>>")


@dataclass(frozen=True)
class Source:
    """A file of conversations, used `repeat` times per epoch."""

    path: Path
    repeat: int = 1
    calculator: bool = False  # convert GSM8K's annotations to tool calls

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Parse `[gsm8k:]path[:repeat]`; an existing file of exactly that name takes precedence."""
        name = text.removeprefix(_GSM8K)
        path, colon, repeat = name.rpartition(":")
        if not colon or not repeat.isdecimal() or Path(name).exists():
            path, repeat = name, "1"
        if not path or int(repeat) < 1:
            raise ValueError(
                f"{text!r}: expected [gsm8k:]path[:repeat] with a repeat of at least 1, as in "
                "chat.jsonl, chat.jsonl:2 or gsm8k:train.jsonl:4"
            )
        return cls(Path(path), int(repeat), name != text)


def read_mixture(sources: Iterable[str | Source]) -> list[Conversation]:
    """Return the conversations of all sources in their order, repeats included.

    Raises `FileNotFoundError` for a missing file, `ValueError` for a malformed row.
    """
    conversations: list[Conversation] = []
    for each in sources:
        source = Source.parse(each) if isinstance(each, str) else each
        conversations += read_conversations(source.path, source.calculator) * source.repeat
    return conversations


def read_conversations(path: str | Path, calculator: bool = False) -> list[Conversation]:
    """Return the conversations of a file; blank lines are skipped.

    With `calculator`, GSM8K's annotations `<<48/2=24>>` in answers become tool calls with results.
    Raises `ValueError` with file and line for a row that is not a JSON object, is not a valid
    conversation, or has another layout than the first row.
    """
    conversations, layout = [], ""
    for where, row in read_rows(Path(path)):
        try:
            found, sample = parse_row(row)
            layout = check_layout(found, layout)
            if isinstance(sample, Completion):
                sample = sample.as_chat()
            if not isinstance(sample, Chat):
                raise ValueError(f"the {found} layout is no conversation")
            conversation = {"messages": sample.messages}
            check_conversation(conversation)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        conversations.append(_with_tool_calls(conversation) if calculator else conversation)
    return conversations


def check_layout(found: str, first: str) -> str:
    """Return the layout of a file; `ValueError` if a row has another than the first row."""
    if first and found != first:
        raise ValueError(
            f"this row has the {found} layout, but the file's first row the {first} layout; put "
            "them into two files"
        )
    return found


def solution_parts(solution: str) -> list[dict[str, str]]:
    """Return the parts of a GSM8K solution: text, and python and python_output of each `<<...>>`.

    The output is the text after the last `=`, as in `<<5=5=5>>`; it is empty without a `=`.
    """
    parts = []
    # `split` alternates between text and the content of annotations.
    for number, piece in enumerate(_ANNOTATION.split(solution)):
        if number % 2:
            expression, _, result = piece.rpartition("=") if "=" in piece else (piece, "", "")
            parts.append({"type": "python", "text": expression})
            parts.append({"type": "python_output", "text": result})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def make_conversation(question: str, answer: str | list[dict[str, str]]) -> dict[str, list[dict]]:
    """Return a conversation with one question and its answer."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def _with_tool_calls(conversation: Conversation) -> Conversation:
    messages = []
    for message in conversation["messages"]:
        if message["role"] == "assistant" and isinstance(message["content"], str):
            message = {**message, "content": solution_parts(message["content"])}
        messages.append(message)
    return {"messages": messages}
