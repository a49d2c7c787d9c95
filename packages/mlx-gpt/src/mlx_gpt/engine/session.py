"""A chat session with a model: the turns as tokens, and the cache of the conversation."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mlx_gpt.data.conversation import check_conversation, render_conversation, render_for_completion
from mlx_gpt.engine.continuations import chat_ids
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Piece, Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.engine.tools import content_parts
from mlx_gpt.models.cache import PromptCache
from mlx_gpt.tokenizer.tokenizer import Tokenizer


@dataclass
class Turn:
    """A user message and the answer."""

    text: str  # the user's
    prompt_ids: list[int]  # nanochat's, with the special tokens of the turn, else empty
    answer_ids: list[int] = field(default_factory=list)  # without the end token


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

    Answers are stored as the sampled tokens, and nanochat's are sent again as such, because
    encoding their text may give other tokens. A chat template renders the whole conversation at
    each turn; what it has in common with the turn before is not processed again.
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
        self._end = None  # of nanochat's turns
        if isinstance(engine.tokenizer, Tokenizer):
            self._prompt("", first=True)  # raises if the tokenizer has no chat tokens
            self._end = engine.tokenizer.special("<|assistant_end|>")
        else:  # raises if the model has no chat template
            chat_ids(engine.tokenizer, [{"role": "user", "content": ""}])

    @property
    def ids(self) -> list[int]:
        """The whole conversation as tokens."""
        if not self.turns:
            return []
        if self._end is None:
            return [*self._request_ids(), *self.turns[-1].answer_ids]
        ids: list[int] = []
        for turn in self.turns:
            ids += [*turn.prompt_ids, *turn.answer_ids, self._end]
        return ids

    @property
    def size(self) -> str:
        """The length of the conversation."""
        return f"{len(self.turns)} turns, {len(self.ids)} tokens"

    @property
    def status(self) -> str:
        """The length of the conversation and the speed of the last answer, in two lines."""
        speed = self.speed
        return (
            f"{self.size} of {self.engine.model.config.sequence_len}, "
            f"{self.cache_bytes / 2**20:.1f} MiB of keys and values\n"
            f"last answer: {speed.tokens} tokens, the first after {speed.first_seconds:.2f} s, "
            f"then {speed.tokens_per_second:.1f} tokens/s"
        )

    @property
    def warning(self) -> str | None:
        """What is wrong with the length of the conversation, if anything."""
        tokens, trained = len(self.ids), self.engine.model.config.sequence_len
        if tokens <= trained:
            return None
        return (
            f"the conversation has {tokens} tokens, the model was trained on {trained}: "
            "answers may get worse; /clear starts a new one"
        )

    @property
    def settings(self) -> dict[str, float | None]:
        """The settings that `change` changes."""
        names = [each.name for each in fields(self.sampling) if each.name != "logit_bias"]
        values = {name: getattr(self.sampling, name) for name in names}
        return {**values, "max_tokens": self.max_tokens}

    def change(self, name: str, value: float | None) -> None:
        """Change a setting; raises `ValueError` if its value is out of range."""
        if name != "max_tokens":
            self.sampling = replace(self.sampling, **{name: value})
        elif value is None or value < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {value}")
        else:
            self.max_tokens = int(value)

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
            if not isinstance(self.engine.tokenizer, Tokenizer):
                answer_ids = self.engine.tokenizer.encode(answer["content"])
                self.turns.append(Turn(text, prompt_ids, answer_ids))
                continue
            pair = {"messages": [{"role": "user", "content": ""}, answer]}
            ids, _ = render_conversation(self.engine.tokenizer, pair)
            before = len(render_for_completion(self.engine.tokenizer, pair))
            self.turns.append(Turn(text, prompt_ids, ids[before:-1]))

    def _answer(self, before: list[int] | None = None) -> Generator[Piece, None, None]:
        turn, sampling = self.turns[-1], self.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + self._answers) % 2**64)
        self._answers += 1
        request = Request(self._request_ids(), self.max_tokens, sampling)
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

    def _request_ids(self) -> list[int]:
        """Return the tokens to answer, up to the last user's turn."""
        if self._end is None:
            return chat_ids(self.engine.tokenizer, self.conversation()["messages"][:-1])
        # Without the end token of the last answer, which the model generates next.
        return self.ids[: -1 - len(self.turns[-1].answer_ids)]

    def _prompt(self, text: str, first: bool) -> list[int]:
        if not isinstance(self.engine.tokenizer, Tokenizer):
            return []
        messages = [{"role": "user", "content": text}]
        if first and self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        ids = render_for_completion(self.engine.tokenizer, {"messages": messages})
        return ids if first else ids[1:]  # without another <|bos|>

    def _last(self) -> Turn:
        if not self.turns:
            raise ValueError("nothing has been said yet")
        return self.turns[-1]
