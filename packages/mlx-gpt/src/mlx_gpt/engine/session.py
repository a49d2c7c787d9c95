"""A chat session with a model: the turns as tokens, and the cache of the conversation."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_gpt.data.conversation import check_conversation, render_conversation, render_for_completion
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Piece, Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.engine.tools import content_parts
from mlx_gpt.models.cache import PromptCache


@dataclass
class Turn:
    """A user message and the answer."""

    text: str  # the user's
    prompt_ids: list[int]  # with the special tokens of the user's turn and <|assistant_start|>
    answer_ids: list[int] = field(default_factory=list)  # without <|assistant_end|>


@dataclass
class Speed:
    """The speed of the last answer."""

    tokens: int = 0
    first_seconds: float = 0.0  # time to the first token, prefill included
    seconds: float = 0.0  # for the other tokens

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed: tokens per second after the first token."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds else 0.0


class ChatSession:
    """A conversation to continue, undo, save and load; each turn processes only its new tokens.

    Answers are stored as the sampled tokens, because encoding their text may give other tokens.
    With a seed in `sampling`, the n-th answer of the session has the seed + n.
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
        self._prompt("", first=True)  # raises if the tokenizer has no chat tokens
        self._end = engine.tokenizer.special("<|assistant_end|>")

    @property
    def ids(self) -> list[int]:
        """The whole conversation as tokens."""
        ids: list[int] = []
        for turn in self.turns:
            ids += [*turn.prompt_ids, *turn.answer_ids, self._end]
        return ids

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cached keys and values."""
        return self._prompt_cache.nbytes

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Send a message; yield the answer. If closed early, the partial answer is kept."""
        self.turns.append(Turn(text, self._prompt(text, first=not self.turns)))
        return self._answer()

    def retry(self) -> Generator[Piece, None, None]:
        """Discard the last answer and yield another one."""
        before, self._last().answer_ids = self._last().answer_ids, []
        return self._answer(before)

    def undo(self) -> str:
        """Remove the last turn; return its user message."""
        text = self._last().text
        self.turns.pop()
        return text

    def clear(self) -> None:
        """Remove all turns; keep the system message and the settings."""
        self.turns, self._prompt_cache = [], PromptCache()

    def conversation(self) -> dict[str, Any]:
        """Return the conversation in the form of `mlx_gpt.data.conversation`."""
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in self.turns:
            parts = content_parts(self.engine.tokenizer, turn.answer_ids)
            plain = all(part["type"] == "text" for part in parts)
            answer = "".join(part["text"] for part in parts) if plain else parts
            messages.append({"role": "user", "content": turn.text})
            messages.append({"role": "assistant", "content": answer})
        return {"messages": messages}

    def load(self, conversation: Mapping[str, Any]) -> None:
        """Continue a conversation that ends with an answer; `ValueError` for any other."""
        messages = list(check_conversation(conversation))
        if messages[-1]["role"] != "assistant":
            raise ValueError("the conversation must end with an answer of the assistant")
        self.clear()
        self.system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        for user, answer in zip(messages[::2], messages[1::2], strict=True):
            text = user["content"]
            prompt_ids = self._prompt(text, first=not self.turns)
            pair = {"messages": [{"role": "user", "content": ""}, answer]}
            ids, _ = render_conversation(self.engine.tokenizer, pair)
            before = len(render_for_completion(self.engine.tokenizer, pair))
            self.turns.append(Turn(text, prompt_ids, ids[before:-1]))

    def _answer(self, before: list[int] | None = None) -> Generator[Piece, None, None]:
        turn, sampling = self.turns[-1], self.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + self._answers) % 2**64)
        self._answers += 1
        # Without the end token of the last answer, which the model generates next.
        request = Request(self.ids[:-1], self.max_tokens, sampling)
        begin, self.speed, self.finish_reason = time.perf_counter(), Speed(), None
        pieces = self.engine.stream([request], self._prompt_cache)
        try:
            for piece in pieces:
                self._record(piece, turn, time.perf_counter() - begin)
                yield piece
        finally:
            pieces.close()
            is_empty = self.speed.tokens == 0 and self.finish_reason is None
            if is_empty:  # interrupted before the first token
                if before is None:
                    self.turns.remove(turn)
                else:
                    turn.answer_ids = before

    def _record(self, piece: Piece, turn: Turn, seconds: float) -> None:
        if piece.token is not None:
            turn.answer_ids.append(piece.token)
            self.speed.tokens += 1
        if self.speed.first_seconds == 0:
            self.speed.first_seconds = seconds
        self.speed.seconds = seconds - self.speed.first_seconds
        self.finish_reason = piece.finish_reason

    def _prompt(self, text: str, first: bool) -> list[int]:
        messages = [{"role": "user", "content": text}]
        if first and self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        ids = render_for_completion(self.engine.tokenizer, {"messages": messages})
        return ids if first else ids[1:]  # without another <|bos|>

    def _last(self) -> Turn:
        if not self.turns:
            raise ValueError("nothing has been said yet")
        return self.turns[-1]
