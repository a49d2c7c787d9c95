"""Prompts that are read in pieces, between the steps of the texts in progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import mlx.core as mx

from mlx_gpt.engine.draws import Member
from mlx_gpt.engine.named_adapters import NamedAdapters
from mlx_gpt.models.cache import Cache

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder

M = TypeVar("M", bound=Member)

LEAST_TOKENS = 16  # of a piece: fewer cost about the same


class PromptReading(Generic[M]):
    """A prompt in progress; `members` are the texts that begin with it.

    `cache` is empty, or has the beginning of the prompt already.
    """

    def __init__(self, cache: Cache, member: M):
        self.members, self.cache = [member], cache
        self.prompt, self.adapter = tuple(member.request.prompt), member.adapter
        self.cached = cache.offset
        self._last: mx.array | None = None

    @property
    def remaining(self) -> int:
        """Tokens of the prompt that have not been read."""
        return len(self.prompt) - self.cache.offset

    def is_of(self, member: M) -> bool:
        """Whether a text begins with this prompt."""
        return self.adapter == member.adapter and self.prompt == member.request.prompt

    def read(
        self, model: Decoder, adapters: NamedAdapters | None, tokens: int, wait: bool = False
    ) -> None:
        """Start reading the next tokens; `wait` until they are read."""
        if adapters:
            adapters.use([self.adapter])
        begin = self.cache.offset
        ids = mx.array([self.prompt[begin : begin + tokens]])
        self._last = model.hidden_states(ids, self.cache)[:, -1:]
        (mx.eval if wait else mx.async_eval)(self._last, *self.cache.arrays())

    def logits(self, model: Decoder, adapters: NamedAdapters | None) -> mx.array:
        """Return the logits (1, V) of what follows; all of the prompt was read."""
        assert self._last is not None
        if adapters:
            adapters.use([self.adapter])
        return model.logits(self._last)[:, 0]


class Pace:
    """How many tokens of prompts a step may read, at most `limit`.

    While texts are in progress, reading may take as long as a step of theirs, so that their tokens
    come at least half as fast. Times are those of the steps before.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._step: float | None = None  # seconds of a step without prompts
        self._token: float | None = None  # seconds more for each token of a prompt

    def budget(self, active: bool) -> int:
        """Return how many tokens to read now: all, or a power of two, so that shapes are few."""
        if not active:
            return self.limit
        if self._step is None or not self._token:
            return min(self.limit, 4 * LEAST_TOKENS)
        tokens = max(LEAST_TOKENS, int(self._step / self._token))
        return min(self.limit, 1 << (tokens.bit_length() - 1))

    def saw(self, seconds: float, tokens: int) -> None:
        """Take the time of a step with texts in progress that read this many tokens of prompts."""
        if not tokens:
            self._step = _smoothed(self._step, seconds)
        elif self._step is not None:
            self._token = _smoothed(self._token, max(seconds - self._step, 0.0) / tokens)


def choose(
    readings: Sequence[PromptReading[M]], budget: int, turn: int
) -> list[tuple[PromptReading[M], int]]:
    """Return which prompts to read how far.

    The oldest prompt and the one with the least left have their turns, so that a short prompt does
    not wait for a long one, nor the other way round.
    """
    by_rest = sorted(readings, key=lambda each: each.remaining)
    order = [*readings] if turn % 2 else by_rest
    chosen = []
    for each in order:
        if budget <= 0:
            break
        chosen.append((each, min(budget, each.remaining)))
        budget -= chosen[-1][1]
    return chosen


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else 0.8 * before + 0.2 * now
