"""Encode conversations by a chat template, with the turn of the assistant that a token is part of.

A template marks what the assistant says with `{% generation %}`. Without these tags the turns are
found by rendering: a turn is what `messages[: k + 1]` adds to `messages[:k]` with its generation
prompt. That requires each text to begin with the one before. Where it does not, as in templates
that remove the thoughts of earlier turns, only the last turn is known.

A special token that a message spells out is ordinary text, so that no message can end a turn.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_gpt.tokenizer.chat_template import ChatTemplate, Message
from mlx_gpt.tokenizer.encoding import replace_surrogates
from mlx_gpt.tokenizer.pretrained import PretrainedTokenizer

NO_TURN = -1
_PRIVATE = range(0xF0000, 0xF0100)  # characters for marks: private use, in no font


@dataclass(frozen=True)
class EncodedChat:
    """`turns` (T,) int32 has the number of the assistant's turn of each token, else `NO_TURN`.

    With `only_last` the template does not tell where earlier turns are; they have `NO_TURN`.
    """

    ids: list[int]
    turns: np.ndarray
    only_last: bool = False


@dataclass(frozen=True)
class _Rendered:
    text: str
    spans: list[tuple[int, int]]  # characters that the assistant says, by turn
    spelled: frozenset[int]  # begins of special tokens that messages spell out
    only_last: bool = False


def encode_prompt(
    tokenizer: PretrainedTokenizer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> list[int]:
    """Return the ids after which the assistant's next message begins."""
    renderer = _Renderer(tokenizer, messages, tools, variables)
    return _encode(tokenizer, renderer.render(len(messages), add_generation_prompt=True)).ids


def encode_chat(
    tokenizer: PretrainedTokenizer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    find_turns: bool = True,
    **variables: Any,
) -> EncodedChat:
    """Return the ids of a conversation and the assistant's turns in it, if `find_turns`.

    No BOS is added: templates write it. Raises `ValueError` if the tokenizer has no template, if
    the template fails, or if it does not tell where the last turn begins.
    """
    renderer = _Renderer(tokenizer, messages, tools, variables)
    rendered = renderer.render(len(messages))
    if find_turns and not renderer.template.has_generation_tags(tools):
        spans, only_last = renderer.spans_by_prefixes(rendered.text)
        rendered = replace(rendered, spans=spans, only_last=only_last)
    return _encode(tokenizer, rendered)


class _Renderer:
    """Renders the first messages of a conversation, with marks removed again."""

    def __init__(
        self,
        tokenizer: PretrainedTokenizer,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ):
        self.template = _required_template(tokenizer)
        used = set(
            json.dumps([messages, tools, *variables.values()], ensure_ascii=False, default=str)
        )
        self._begin, self._end, self._guard = [
            character for character in map(chr, _PRIVATE) if character not in used
        ][:3]
        names = sorted(tokenizer.special_names, key=len, reverse=True)
        pattern = re.compile("|".join(f"(?<={re.escape(each[:1])}){re.escape(each[1:])}"
                                      for each in names if len(each) > 1) or r"\b\B")  # fmt: skip
        self._messages = [_guarded(each, pattern, self._guard) for each in messages]
        self._tools = _guarded(tools, pattern, self._guard)
        self._variables = variables

    def render(self, count: int, add_generation_prompt: bool = False) -> _Rendered:
        """Render the first `count` messages."""
        text = replace_surrogates(
            self.template.render_marked(
                self._messages[:count], self._tools, (self._begin, self._end),
                add_generation_prompt=add_generation_prompt, **self._variables,
            )
        )  # fmt: skip
        parts, length = [], 0
        begin, spans, spelled = 0, [], []
        for part in re.split(f"([{self._begin}{self._end}{self._guard}])", text):
            if part == self._guard:
                spelled.append(length - 1)
            elif part == self._begin:
                begin = length
            elif part == self._end:
                spans.append((begin, length))
            else:
                parts.append(part)
                length += len(part)
        return _Rendered("".join(parts), spans, frozenset(spelled))

    def spans_by_prefixes(self, text: str) -> tuple[list[tuple[int, int]], bool]:
        """Return the spans of the assistant's turns in the whole text, and whether only the last.

        If only the last turn is known, it is the only span.
        """
        turns = [i for i, each in enumerate(self._messages) if each.get("role") == "assistant"]
        spans = []
        for turn in turns:
            whole = text if turn == len(self._messages) - 1 else self.render(turn + 1).text
            begin = self._begin_of(turn, whole)
            if begin is None or not text.startswith(whole):
                break
            spans.append((begin, len(whole)))
        if len(spans) == len(turns):
            return spans, False
        last = turns[-1]
        whole = self.render(last + 1).text
        begin = self._begin_of(last, whole)
        if begin is None or not text.startswith(whole):
            raise ValueError(
                f"{self.template.source}: the chat template does not tell where the assistant's "
                "last message begins; add {% generation %} tags to it, or train on all tokens"
            )
        return [(begin, len(whole))], True

    def _begin_of(self, turn: int, whole: str) -> int | None:
        if not turn:
            return self._begin_of_first(whole)
        for prompted in (True, False):
            before = self.render(turn, add_generation_prompt=prompted).text
            if whole.startswith(before):
                return len(before)
        return None

    def _begin_of_first(self, whole: str) -> int:
        """Return where the answer begins in a conversation that begins with the assistant."""
        # Many templates fail without messages, so the header is read after all of them.
        count = len(self._messages)
        text, prompted = (self.render(count, each).text for each in (False, True))
        header = prompted.removeprefix(text)
        known = prompted != text and header != prompted and header in whole
        return whole.index(header) + len(header) if known else 0


def _encode(tokenizer: PretrainedTokenizer, rendered: _Rendered) -> EncodedChat:
    ids, turns = [], []
    specials = tokenizer.special_ids
    turn = 0
    for number, (begin, end) in tokenizer.encode_with_offsets(rendered.text, allow_special=True):
        while turn < len(rendered.spans) and rendered.spans[turn][1] <= begin:
            turn += 1
        inside = turn < len(rendered.spans) and end > max(rendered.spans[turn][0], begin)
        spelled = number in specials and rendered.spelled.intersection(range(begin, end))
        encoded = tokenizer.encode(rendered.text[begin:end]) if spelled else [number]
        ids += encoded
        turns += [turn if inside else NO_TURN] * len(encoded)
    return EncodedChat(ids, np.array(turns, np.int32), rendered.only_last)


def _required_template(tokenizer: PretrainedTokenizer) -> ChatTemplate:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{tokenizer.source} has no chat template; choose one (chatml, plain, or a .jinja file)"
        )
    return tokenizer.chat_template


def _guarded(value: Any, pattern: re.Pattern[str], guard: str) -> Any:
    """Return JSON with a guard after the first character of each special token in its texts."""
    if isinstance(value, str):
        return pattern.sub(lambda found: guard + found[0], value)
    if isinstance(value, Mapping):
        return {key: _guarded(each, pattern, guard) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(each, pattern, guard) for each in value]
    return value
