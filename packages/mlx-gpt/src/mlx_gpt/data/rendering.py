"""Conversations as token ids, by the chat template of a model or in nanochat's format."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_gpt.data.conversation import render_conversation
from mlx_gpt.tokenizer.chat_encoding import NO_TURN, EncodedChat, encode_chat, encode_prompt
from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_gpt.tokenizer.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


def has_chat_format(tokenizer: AnyTokenizer) -> bool:
    """Whether conversations can be rendered for this model."""
    if isinstance(tokenizer, Tokenizer):
        try:
            return tokenizer.special("<|assistant_start|>") >= 0
        except KeyError:
            return False
    return tokenizer.chat_template is not None


def render_messages(
    tokenizer: AnyTokenizer,
    messages: Messages,
    tools: Messages | None = None,
    find_turns: bool = True,
    **variables: Any,
) -> EncodedChat:
    """Return the ids of messages and the assistant's turns in them, none unless `find_turns`.

    Results of nanochat's calculator are no part of a turn. `variables` are for chat templates.
    Raises `ValueError` if the model has no format for chats, or its format not for these messages.
    """
    if not isinstance(tokenizer, Tokenizer):
        _refuse_parts(messages)
        return encode_chat(tokenizer, messages, tools, find_turns, **variables)
    if tools:
        raise ValueError("nanochat's format has no tools but its calculator")
    ids, mask = render_conversation(tokenizer, {"messages": messages})
    starts = np.array(ids) == tokenizer.special("<|assistant_start|>")
    turns = np.where(mask, np.cumsum(starts) - 1, NO_TURN).astype(np.int32)
    return EncodedChat(ids, turns)


def render_prompt(
    tokenizer: AnyTokenizer, messages: Messages, tools: Messages | None = None, **variables: Any
) -> list[int]:
    """Return the ids after which the assistant answers `messages`."""
    if not isinstance(tokenizer, Tokenizer):
        _refuse_parts(messages)
        return encode_prompt(tokenizer, messages, tools, **variables)
    if tools:
        raise ValueError("nanochat's format has no tools but its calculator")
    ids, _ = render_conversation(tokenizer, {"messages": messages})
    return [*ids, tokenizer.special("<|assistant_start|>")]


def _refuse_parts(messages: Messages) -> None:
    for number, message in enumerate(messages, 1):
        if not isinstance(message["content"], str):
            raise ValueError(
                f"message {number} of {len(messages)}: only nanochat's models have python parts"
            )
