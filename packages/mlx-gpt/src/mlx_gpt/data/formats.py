"""Rows of JSON lines to conversations.

Three layouts are known by the keys of a row; further keys are ignored:

    {"messages": [{"role": "user", "content": ...}, ...]}     chat
    {"prompt": ..., "completion": ...}                        completion
    {"instruction": ..., "input": ..., "output": ...}         Alpaca; "input" may be missing
"""

import json
from collections.abc import Callable
from pathlib import Path

from mlx_gpt.data.conversation import Conversation, check_conversation
from mlx_gpt.evaluate.gsm8k import solution_parts
from mlx_gpt.evaluate.rows import read_rows


def read_conversations(path: str | Path, calculator: bool = False) -> list[Conversation]:
    """Return the conversations of a file; empty lines are skipped.

    With `calculator`, GSM8K's marks `<<48/2=24>>` in answers become calls of the calculator and
    what it returned. Raises `ValueError` with file and line where a row is no JSON object, has not
    the layout of the file's first row, or is no conversation.
    """
    conversations, layout = [], None
    for where, row in read_rows(Path(path)):
        found = _layout(row, where)
        layout = layout or found
        if found != layout:
            raise ValueError(
                f"{where}: this row is of the {found} layout, the file's first row of the {layout} "
                "layout; put them into two files"
            )
        try:
            conversation = _MAKE[layout](row)
            check_conversation(conversation)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        conversations.append(_with_calculator(conversation) if calculator else conversation)
    return conversations


def _with_calculator(conversation: Conversation) -> Conversation:
    """Return the conversation with the marks in the assistant's texts turned into parts."""
    messages = []
    for message in conversation["messages"]:
        if message["role"] == "assistant" and isinstance(message["content"], str):
            message = {**message, "content": solution_parts(message["content"])}
        messages.append(message)
    return {"messages": messages}


def _layout(row: dict, where: str) -> str:
    for layout, keys in _KEYS.items():
        if all(key in row for key in keys):
            return layout
    raise ValueError(
        f"{where}: a row needs the key messages, or prompt and completion, or instruction and "
        f"output; it has {', '.join(map(str, row)) or 'none'}"
    )


def _chat(row: dict) -> Conversation:
    return {"messages": row["messages"]}


def _completion(row: dict) -> Conversation:
    return _exchange(_text(row, "prompt"), _text(row, "completion"))


def _alpaca(row: dict) -> Conversation:
    question, more = _text(row, "instruction"), _text(row, "input")
    return _exchange(f"{question}\n\n{more}" if more else question, _text(row, "output"))


def _exchange(question: str, answer: str) -> Conversation:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def _text(row: dict, key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text, got {json.dumps(value)[:60]}")
    return value


_KEYS = {
    "chat": ("messages",),
    "completion": ("prompt", "completion"),
    "Alpaca": ("instruction", "output"),
}
_MAKE: dict[str, Callable[[dict], Conversation]] = {
    "chat": _chat,
    "completion": _completion,
    "Alpaca": _alpaca,
}
