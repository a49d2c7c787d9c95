"""Chats as token ids with a mask that says which of them the model learns: nanochat's format.

A conversation is `{"messages": [{"role": ..., "content": ...}, ...]}`. Roles are `user` and
`assistant` in turn, the user first; one `system` message may come before and is put in front of
the first user's text. Content is text; an assistant's may be a list of parts instead, each
`{"type": "text" | "python" | "python_output", "text": ...}`.

    <|bos|>                                                     not learned
    <|user_start|> text <|user_end|>                            not learned
    <|assistant_start|>                                         not learned
    text, <|python_start|> program <|python_end|>               learned
    <|output_start|> what the program printed <|output_end|>    not learned: a tool says it
    <|assistant_end|>                                           learned
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_gpt._suggest import did_you_mean
from mlx_gpt.tokenizer.tokenizer import SPECIALS, Tokenizer

Conversation = Mapping[str, Any]

# The special tokens around a part of an assistant's message, and whether the model learns it.
_PARTS: dict[str, tuple[str | None, str | None, int]] = {
    "text": (None, None, 1),
    "python": ("<|python_start|>", "<|python_end|>", 1),
    "python_output": ("<|output_start|>", "<|output_end|>", 0),
}
_GREEN, _RED, _RESET = "\033[32m", "\033[31m", "\033[0m"


def render_conversation(
    tokenizer: Tokenizer, conversation: Conversation, max_tokens: int | None = None
) -> tuple[list[int], list[int]]:
    """Return ids and mask (1 where the model learns the token), at most `max_tokens` of each.

    Raises `ValueError` that says which message is wrong.
    """
    messages = _merge_system(_checked(conversation))
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
                before, after, learned = _PARTS[part["type"]]
                rendered.special(before, learned)
                rendered.text(part["text"], learned)
                rendered.special(after, learned)
            rendered.special("<|assistant_end|>", 1)
    return rendered.ids[:max_tokens], rendered.mask[:max_tokens]


def render_for_completion(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Return the ids up to and with the `<|assistant_start|>` of the answer that is to come.

    A last message of the assistant is left out: it is what the model is to say itself.
    """
    messages = list(_checked(conversation))
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    ids, _ = render_conversation(tokenizer, {"messages": messages})
    return [*ids, tokenizer.special("<|assistant_start|>")]


def visualize(
    tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[int], colour: bool = False
) -> str:
    """Return tokens for people to read, a line for each run of tokens with the same mask.

    Lines of learned tokens begin with `+` (and are green), the others with a blank (and are red).
    """
    lines: list[str] = []
    pieces: list[str] = []
    pairs = list(zip(ids, mask, strict=True))
    for place, (number, learned) in enumerate(pairs):
        pieces.append(tokenizer.piece(number))
        if place + 1 == len(pairs) or pairs[place + 1][1] != learned:
            line = ("+ " if learned else "  ") + "|".join(pieces)
            pieces = []
            lines.append(f"{_GREEN if learned else _RED}{line}{_RESET}" if colour else line)
    return "\n".join(lines)


def check_conversation(conversation: Conversation) -> None:
    """Raise `ValueError` unless `conversation` has the form that the module's text describes."""
    _checked(conversation)


class _Rendered:
    """Ids and mask as they grow."""

    def __init__(self, tokenizer: Tokenizer):
        self.ids: list[int] = []
        self.mask: list[int] = []
        self._tokenizer = tokenizer

    def special(self, name: str | None, learned: int) -> None:
        if name is None:
            return
        try:
            self.ids.append(self._tokenizer.special(name))
        except KeyError:
            raise ValueError(
                f"this tokenizer has no {name}; a chat needs the special tokens "
                + " ".join(SPECIALS)
            ) from None
        self.mask.append(learned)

    def text(self, text: str, learned: int) -> None:
        ids = self._tokenizer.encode(text)
        self.ids += ids
        self.mask += [learned] * len(ids)


def _merge_system(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if messages[0]["role"] != "system":
        return messages
    system, user, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _parts(content: str | Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _checked(conversation: Conversation) -> Sequence[Mapping[str, Any]]:
    """Return the messages of a conversation, or raise `ValueError`."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError('a conversation is {"messages": [...]} with at least one message')
    for place, message in enumerate(messages):
        where = f"message {place + 1} of {len(messages)}"
        if not isinstance(message, Mapping) or {"role", "content"} - set(message):
            raise ValueError(f"{where}: expected an object with role and content, got {message!r}")
        _check_role(messages, place, where)
        _check_content(message, where)
    if messages[-1]["role"] == "system":
        raise ValueError("message 1 of 1: a system message needs a user's message after it")
    return messages


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
