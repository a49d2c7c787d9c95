"""A conversation with a model: what was said, as tokens, and what the model has read of it."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_gpt.data.conversation import check_conversation, render_conversation, render_for_completion
from mlx_gpt.engine import Engine, Piece, PromptCache, Request, Sampling, content_parts


@dataclass
class Turn:
    """What the user said, and the tokens of it and of the answer."""

    text: str
    asked: list[int]  # with the markers of the user's turn and <|assistant_start|>
    answered: list[int] = field(default_factory=list)  # without <|assistant_end|>


@dataclass
class Speed:
    """How fast the last answer came."""

    tokens: int = 0
    first_seconds: float = 0.0  # until the first token, reading the prompt included
    seconds: float = 0.0  # for the tokens after it

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds else 0.0


class ChatSession:
    """Ask, take back, save and load; a turn costs the model only its own tokens.

    Answers stay the tokens that were drawn, as their text might be cut into others. With a seed in
    `sampling` the n-th answer of the session is drawn with that seed + n.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        max_tokens: int = 512,
        system: str | None = None,
    ):
        self.engine = engine
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.system = system
        self.turns: list[Turn] = []
        self.speed = Speed()
        self.finish_reason: str | None = None  # of the last answer
        self._prompt_cache = PromptCache()
        self._answers = 0
        self._asked("", first=True)  # says what is missing where a tokenizer is not for chats
        self._end = engine.tokenizer.special("<|assistant_end|>")

    @property
    def ids(self) -> list[int]:
        """The whole conversation as tokens."""
        ids: list[int] = []
        for turn in self.turns:
            ids += [*turn.asked, *turn.answered, self._end]
        return ids

    @property
    def cache_bytes(self) -> int:
        """Bytes of what the model remembers."""
        return self._prompt_cache.nbytes

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Say something; yield the answer. Closed in the middle, it stays as far as it got."""
        self.turns.append(Turn(text, self._asked(text, first=not self.turns)))
        return self._answer()

    def retry(self) -> Generator[Piece, None, None]:
        """Take the last answer back and yield another one."""
        before, self._last().answered = self._last().answered, []
        return self._answer(before)

    def undo(self) -> str:
        """Take the last turn back; return what the user had said."""
        text = self._last().text
        self.turns.pop()
        return text

    def clear(self) -> None:
        """Forget everything but the system's message and the settings."""
        self.turns, self._prompt_cache = [], PromptCache()

    def conversation(self) -> dict[str, Any]:
        """Return what was said as `mlx_gpt.data.conversation` has it."""
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in self.turns:
            parts = content_parts(self.engine.tokenizer, turn.answered)
            plain = all(part["type"] == "text" for part in parts)
            answer = "".join(part["text"] for part in parts) if plain else parts
            messages.append({"role": "user", "content": turn.text})
            messages.append({"role": "assistant", "content": answer})
        return {"messages": messages}

    def load(self, conversation: Mapping[str, Any]) -> None:
        """Go on from a conversation that ends with an answer; `ValueError` for another one."""
        check_conversation(conversation)
        messages = list(conversation["messages"])
        if messages[-1]["role"] != "assistant":
            raise ValueError("the conversation must end with an answer of the assistant")
        self.clear()
        self.system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        for user, answer in zip(messages[::2], messages[1::2], strict=True):
            text = user["content"]
            asked = self._asked(text, first=not self.turns)
            pair = {"messages": [{"role": "user", "content": ""}, answer]}
            ids, _ = render_conversation(self.engine.tokenizer, pair)
            before = len(render_for_completion(self.engine.tokenizer, pair))
            self.turns.append(Turn(text, asked, ids[before:-1]))

    def _answer(self, before: list[int] | None = None) -> Generator[Piece, None, None]:
        turn, sampling = self.turns[-1], self.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + self._answers) % 2**64)
        self._answers += 1
        # The end of the last answer is not said yet.
        request = Request(self.ids[:-1], self.max_tokens, sampling)
        begin, self.speed, self.finish_reason = time.perf_counter(), Speed(), None
        pieces = self.engine.stream([request], self._prompt_cache)
        try:
            for piece in pieces:
                self._note(piece, turn, time.perf_counter() - begin)
                yield piece
        finally:
            pieces.close()
            if self.speed.tokens == 0 and self.finish_reason is None:  # interrupted at once
                if before is None:
                    self.turns.remove(turn)
                else:
                    turn.answered = before

    def _note(self, piece: Piece, turn: Turn, seconds: float) -> None:
        if piece.token is not None:
            turn.answered.append(piece.token)
            self.speed.tokens += 1
        if self.speed.first_seconds == 0:
            self.speed.first_seconds = seconds
        self.speed.seconds = seconds - self.speed.first_seconds
        self.finish_reason = piece.finish_reason

    def _asked(self, text: str, first: bool) -> list[int]:
        messages = [{"role": "user", "content": text}]
        if first and self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        ids = render_for_completion(self.engine.tokenizer, {"messages": messages})
        return ids if first else ids[1:]  # one <|bos|> is enough

    def _last(self) -> Turn:
        if not self.turns:
            raise ValueError("nothing has been said yet")
        return self.turns[-1]
