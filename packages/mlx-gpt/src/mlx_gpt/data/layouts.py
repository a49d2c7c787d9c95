"""The layouts of rows for training and evaluation; `ignored_keys` are those that a layout has not.

{"text": ...}                                          text
{"prompt": ..., "completion": ...}                     completion; also question and answer
{"messages": [{"role": ..., "content": ...}, ...]}     chat; "system", "tools" optional
{"conversations": [{"from": ..., "value": ...}, ...]}  ShareGPT; "system", "tools" optional
{"instruction": ..., "output": ...}                    Alpaca; "input", "system", "history" opt.
{"prompt": ..., "chosen": ..., "rejected": ...}        preference; each a text or messages,
                                                       without prompt whole conversations
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gpt.data.messages import check_messages, from_sharegpt, parse_tools
from mlx_trainer import did_you_mean

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Text:
    """A text, all of which is trained on."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A text and its continuation."""

    prompt: str
    completion: str

    def as_chat(self) -> "Chat":
        """Return the question and its answer as messages."""
        return Chat(_exchange(self.prompt, self.completion))


@dataclass(frozen=True)
class Chat:
    """Messages in the form of `check_messages`, with at least one of the assistant."""

    messages: Messages
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Preference:
    """Two conversations; their first `shared` messages are equal."""

    chosen: Chat
    rejected: Chat
    shared: int


Sample = Text | Completion | Chat | Preference


def parse_row(row: Mapping[str, Any]) -> tuple[str, Sample]:
    """Return the name of a row's layout and its content; `ValueError` if it is malformed."""
    for name, layout in _LAYOUTS.items():
        if all(key in row for key in layout.required):
            return name, layout.parse(row)
    raise ValueError(
        "a row needs the keys text, or prompt and completion, or messages, or conversations, or "
        f"instruction and output, or chosen and rejected; it has {', '.join(row) or 'none'}"
    )


def ignored_keys(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of a row with a value that its layout does not read, each with its text.

    The text of a key that is nearly one of the layout has a question.
    """
    layout = _LAYOUTS[name]
    lacking = [key for key in layout.optional if key not in row]
    found = {}
    for key, value in row.items():
        if key in layout.required or key in layout.optional or value in (None, "", [], {}):
            continue
        hint = did_you_mean(key, lacking).removeprefix("; ")
        found[key] = f"{key} ({hint})" if hint.startswith("did") else key
    return found


def _text(row: Mapping[str, Any]) -> Text:
    return Text(_get_text(row, "text"))


def _completion(row: Mapping[str, Any], prompt: str, completion: str) -> Completion:
    return Completion(_get_text(row, prompt, may_be_empty=True), _get_text(row, completion))


def _chat(row: Mapping[str, Any]) -> Chat:
    messages = check_messages(row["messages"])
    return _with_answer(check_messages([*_system(row), *messages]), row)


def _sharegpt(row: Mapping[str, Any]) -> Chat:
    messages = check_messages([*_system(row), *from_sharegpt(row["conversations"])])
    return _with_answer(messages, row)


def _alpaca(row: Mapping[str, Any]) -> Chat:
    question = _get_text(row, "instruction")
    more = _get_text(row, "input", may_be_empty=True) if row.get("input") is not None else ""
    messages = _system(row)
    history = row.get("history") or []
    if not isinstance(history, list) or not all(map(_is_pair, history)):
        raise ValueError("history must be a list of pairs of texts")
    for turn in history:
        messages += _exchange(*turn)
    answer = _get_text(row, "output")
    return Chat([*messages, *_exchange(f"{question}\n\n{more}" if more else question, answer)])


def _preference(row: Mapping[str, Any]) -> Preference:
    prompt = row.get("prompt")
    before: Messages = []
    if isinstance(prompt, str):
        before = [*_system(row), {"role": "user", "content": prompt}]
    elif prompt is not None:
        before = check_messages([*_system(row), *check_messages(prompt, "prompt")], "prompt")
    chosen, rejected = (
        _with_answer(_continued(before, row[key], key), row) for key in ("chosen", "rejected")
    )
    pairs = zip(chosen.messages, rejected.messages, strict=False)
    shared = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    if shared is None:
        raise ValueError("chosen and rejected do not differ")
    return Preference(chosen, rejected, shared)


def _continued(before: Messages, value: object, key: str) -> Messages:
    """Return the conversation of one side of a preference."""
    if isinstance(value, str):
        if not before:
            raise ValueError(f"{key} is text, so the row needs a prompt")
        return [*before, *check_messages([{"role": "assistant", "content": value}], key)]
    if isinstance(value, Mapping):
        value = [value]
    messages = check_messages(value, key)
    if not before or messages[0]["role"] == "assistant":
        return [*before, *messages]
    if [each for each in before if each["role"] == "user"][-1:] != [
        each for each in messages if each["role"] == "user"
    ][-1:]:
        raise ValueError(f"{key} is a whole conversation, but its question is not the prompt")
    return messages


def _with_answer(messages: Messages, row: Mapping[str, Any]) -> Chat:
    if not any(each["role"] == "assistant" for each in messages):
        raise ValueError("no message of the assistant, so there is nothing to learn")
    return Chat(messages, parse_tools(row.get("tools")))


def _system(row: Mapping[str, Any]) -> Messages:
    return [{"role": "system", "content": _get_text(row, "system")}] if row.get("system") else []


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [str, str]


def _exchange(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _get_text(row: Mapping[str, Any], key: str, may_be_empty: bool = False) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text, got {json.dumps(value, default=str)[:60]}")
    if not value.strip() and not may_be_empty:
        raise ValueError(f"{key} is empty")
    return value


@dataclass(frozen=True)
class _Layout:
    required: tuple[str, ...]
    optional: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Sample]


# By name; a row has the first one whose required keys are all there.
_LAYOUTS = {
    "preference": _Layout(("chosen", "rejected"), ("prompt", "system", "tools"), _preference),
    "chat": _Layout(("messages",), ("system", "tools"), _chat),
    "ShareGPT": _Layout(("conversations",), ("system", "tools"), _sharegpt),
    "completion": _Layout(
        ("prompt", "completion"), (), lambda row: _completion(row, "prompt", "completion")
    ),
    "Alpaca": _Layout(("instruction", "output"), ("input", "system", "history"), _alpaca),
    "question and answer": _Layout(
        ("question", "answer"), (), lambda row: _completion(row, "question", "answer")
    ),
    "text": _Layout(("text",), (), _text),
}
