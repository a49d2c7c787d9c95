"""Render conversations as token ids with a loss mask, in nanochat's format.

A conversation is `{"messages": [{"role": ..., "content": ...}, ...]}`. Roles alternate between
`user` and `assistant`, the user first. One `system` message may come before them; it is prepended
to the first user message. Content is text; that of an assistant may also be a list of parts
`{"type": "text" | "python" | "python_output", "text": ...}`.

    <|bos|>                                             not trained on
    <|user_start|> text <|user_end|>                    not trained on
    <|assistant_start|>                                 not trained on
    text, <|python_start|> program <|python_end|>       trained on
    <|output_start|> program's output <|output_end|>    not trained on: written by the tool
    <|assistant_end|>                                   trained on
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_gpt.tokenizer.tokenizer import SPECIALS, Tokenizer
from mlx_trainer import did_you_mean

Conversation = Mapping[str, Any]

# Special tokens around a part of an assistant's message, and its loss mask.
_PARTS: dict[str, tuple[str | None, str | None, int]] = {
    "text": (None, None, 1),
    "python": ("<|python_start|>", "<|python_end|>", 1),
    "python_output": ("<|output_start|>", "<|output_end|>", 0),
}
_GREEN, _RED, _RESET = "\033[32m", "\033[31m", "\033[0m"


def render_conversation(
    tokenizer: Tokenizer, conversation: Conversation, max_tokens: int | None = None
) -> tuple[list[int], list[int]]:
    """Return ids and loss mask (1: the token is trained on), at most `max_tokens` of each.

    Raises `ValueError` with the number of the malformed message.
    """
    messages = _merge_system(check_conversation(conversation))
    rendered = _Rendered(tokenizer)
    rendered.special("<|bos|>", 0)
    for message in messages:
        if message["role"] == "user":
            rendered.special("<|user_start|>", 0)
            rendered.text(message["content"], 0)
            rendered.special("<|user_end|>", 0)
        else:
            rendered.special("<|assistant_start|>", 0)
            for part in _parts(message["content"]):
                before, after, trained = _PARTS[part["type"]]
                rendered.special(before, trained)
                rendered.text(part["text"], trained)
                rendered.special(after, trained)
            rendered.special("<|assistant_end|>", 1)
    return rendered.ids[:max_tokens], rendered.mask[:max_tokens]


def render_for_completion(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Return the prompt for the next answer: ids up to and including `<|assistant_start|>`.

    If the last message is the assistant's, it is dropped: the model is to generate it.
    """
    messages = list(check_conversation(conversation))
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    ids, _ = render_conversation(tokenizer, {"messages": messages})
    return [*ids, tokenizer.special("<|assistant_start|>")]


def visualize(
    tokenizer: AnyTokenizer, ids: Sequence[int], mask: Sequence[int], colour: bool = False
) -> str:
    """Return tokens in readable form, one line for each run of tokens with the same mask.

    Lines of tokens that are trained on begin with `+` (green), other lines with a space (red).
    """
    lines: list[str] = []
    for trained, run in groupby(zip(ids, mask, strict=True), key=itemgetter(1)):
        line = ("+ " if trained else "  ") + "|".join(tokenizer.piece(number) for number, _ in run)
        lines.append(f"{_GREEN if trained else _RED}{line}{_RESET}" if colour else line)
    return "\n".join(lines)


def check_conversation(conversation: Conversation) -> Sequence[Mapping[str, Any]]:
    """Return the messages; `ValueError` unless they have the form in this module's docstring."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError('a conversation is {"messages": [...]} with at least one message')
    for i, message in enumerate(messages):
        where = f"message {i + 1} of {len(messages)}"
        if not isinstance(message, Mapping) or {"role", "content"} - set(message):
            raise ValueError(f"{where}: expected an object with role and content, got {message!r}")
        if message.get("tool_calls"):
            raise ValueError(f"{where}: nanochat's format has no calls of tools but its own parts")
        _check_role(messages, i, where)
        _check_content(message, where)
    if messages[-1]["role"] == "system":
        raise ValueError("message 1 of 1: a system message needs a user's message after it")
    return messages


class _Rendered:
    """Ids and mask of the messages rendered so far."""

    def __init__(self, tokenizer: Tokenizer):
        self.ids: list[int] = []
        self.mask: list[int] = []
        self._tokenizer = tokenizer

    def special(self, name: str | None, trained: int) -> None:
        if name is None:
            return
        try:
            self.ids.append(self._tokenizer.special(name))
        except KeyError:
            raise ValueError(
                f"this tokenizer has no {name}; a chat needs the special tokens "
                + " ".join(SPECIALS)
            ) from None
        self.mask.append(trained)

    def text(self, text: str, trained: int) -> None:
        ids = self._tokenizer.encode(text)
        self.ids += ids
        self.mask += [trained] * len(ids)


def _merge_system(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if messages[0]["role"] != "system":
        return messages
    system, user, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _parts(content: str | Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _check_role(messages: Sequence[Mapping[str, Any]], place: int, where: str) -> None:
    role = messages[place]["role"]
    if place == 0 and role == "system":
        return
    after_system = messages[0]["role"] == "system"
    expected = "user" if (place - after_system) % 2 == 0 else "assistant"
    if role == expected:
        return
    if role == "system":
        raise ValueError(f"{where}: a system message may only come first")
    if role not in ("user", "assistant"):
        hint = did_you_mean(str(role), ("system", "user", "assistant"))
        raise ValueError(f"{where}: unknown role {role!r}{hint}")
    raise ValueError(
        f"{where}: expected role {expected!r}, got {role!r}; user and assistant take turns, the "
        "user first"
    )


def _check_content(message: Mapping[str, Any], where: str) -> None:
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return
    if role != "assistant" or not isinstance(content, list | tuple):
        parts = " or a list of parts" if role == "assistant" else ""
        raise ValueError(
            f"{where}: the content of {role!r} must be text{parts}, got {type(content).__name__}"
        )
    for number, part in enumerate(content, 1):
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise ValueError(
                f"{where}, part {number}: expected an object with type and text, got {part!r}"
            )
        if part.get("type") not in _PARTS:
            hint = did_you_mean(str(part.get("type")), _PARTS)
            raise ValueError(f"{where}, part {number}: unknown type {part.get('type')!r}{hint}")
