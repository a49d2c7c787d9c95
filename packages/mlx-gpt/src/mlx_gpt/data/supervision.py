"""Encode a row, and choose the tokens that are trained on.

What is trained on, by layout and mask:

    mask          text    completion        chat, ShareGPT, Alpaca
    all           all     all               all
    completion    all     the completion    the last turn of the assistant
    assistant     all     the completion    all turns of the assistant
    last          all     the completion    the last turn of the assistant

A turn includes the token that ends it, and nothing after that. The first token of a row is never
trained on, because nothing predicts it. With a model that has no chat template, a completion row
is the two texts and the end token; with one, a question and its answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlx_gpt.data.layouts import Chat, Completion, Text
from mlx_gpt.data.rendering import has_chat_format, render_messages
from mlx_gpt.tokenizer.loading import AnyTokenizer

Mask = Literal["all", "completion", "assistant", "last"]
MASKS: tuple[Mask, ...] = ("all", "completion", "assistant", "last")


@dataclass(frozen=True)
class Supervision:
    """What is trained on; `variables` are for the chat template.

    Without `train_on_eos` the tokens that end a text or a turn are not trained on.
    """

    mask: Mask = "assistant"
    train_on_eos: bool = True
    variables: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Encoded:
    """`ids` (T,) int32 and `trained` (T,) bool of a row.

    With `only_last` the mask asks for several turns, but only the last one is known.
    """

    ids: np.ndarray
    trained: np.ndarray
    only_last: bool = False


def encode_sample(
    tokenizer: AnyTokenizer,
    sample: Text | Completion | Chat,
    supervision: Supervision,
    first_turn: int = 0,
) -> Encoded:
    """Return the tokens of a row; of a chat only turns from `first_turn` on are trained on.

    Raises `ValueError` if the model has no format for such a row.
    """
    if isinstance(sample, Completion) and has_chat_format(tokenizer):
        sample = sample.as_chat()
    if isinstance(sample, Chat):
        ids, trained, only_last = _encode_chat(tokenizer, sample, supervision, first_turn)
    else:
        prompt = sample.prompt if isinstance(sample, Completion) else ""
        text = sample.completion if isinstance(sample, Completion) else sample.text
        begin, ids = _encode_text(tokenizer, prompt, text)
        trained, only_last = np.ones(len(ids), bool), False
        if supervision.mask != "all":
            trained[:begin] = False
    trained[:1] = False
    if not supervision.train_on_eos:
        trained &= ~np.isin(ids, [*tokenizer.end_ids, tokenizer.eos_id])
    return Encoded(np.array(ids, np.int32), trained, only_last)


def _encode_text(tokenizer: AnyTokenizer, prompt: str, text: str) -> tuple[int, list[int]]:
    """Return the number of tokens before `text`, and the ids of both texts with the end token."""
    if not prompt:
        ids = tokenizer.prompt_ids(text)
        return len(ids) - len(tokenizer.encode(text)), [*ids, tokenizer.eos_id]
    before, whole = tokenizer.prompt_ids(prompt), tokenizer.prompt_ids(prompt + text)
    if whole[: len(before)] != before:
        # A token covers the border; at inference the prompt ends there.
        whole = [*before, *tokenizer.encode(text)]
    return len(before), [*whole, tokenizer.eos_id]


def _encode_chat(
    tokenizer: AnyTokenizer, chat: Chat, supervision: Supervision, first_turn: int
) -> tuple[list[int], np.ndarray, bool]:
    is_all = supervision.mask == "all"
    encoded = render_messages(
        tokenizer, chat.messages, chat.tools, find_turns=not is_all,
        **(supervision.variables or {}),
    )  # fmt: skip
    if is_all:
        return encoded.ids, np.ones(len(encoded.ids), bool), False
    last = sum(each["role"] == "assistant" for each in chat.messages) - 1
    if supervision.mask != "assistant":
        first_turn = last
    lacking = encoded.only_last and first_turn < last
    first = 0 if encoded.only_last else min(first_turn, int(encoded.turns.max(initial=0)))
    trained = np.zeros(len(encoded.ids), bool)
    for turn in range(first, int(encoded.turns.max(initial=-1)) + 1):
        trained |= _end_turn(tokenizer, encoded.ids, encoded.turns == turn, supervision)
    return encoded.ids, trained, lacking


def _end_turn(
    tokenizer: AnyTokenizer, ids: list[int], is_turn: np.ndarray, supervision: Supervision
) -> np.ndarray:
    """Return `is_turn` with the token that ends the turn, and without white space after it."""
    places = np.flatnonzero(is_turn)
    if not len(places):
        return is_turn
    ends = [place for place in places if ids[place] in tokenizer.special_ids]
    after = places[-1] + 1
    if ends and not tokenizer.decode_bytes(ids[ends[-1] + 1 : after]).strip():
        is_turn[ends[-1] + 1 : after] = False
        is_turn[ends[-1]] = supervision.train_on_eos
    elif after < len(ids) and ids[after] in tokenizer.end_ids:
        is_turn[after] = True
    return is_turn
