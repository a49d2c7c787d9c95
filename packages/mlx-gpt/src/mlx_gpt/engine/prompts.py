"""Prompts that are read in pieces, between the steps of the texts in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import mlx.core as mx

from mlx_gpt.engine.draws import Member
from mlx_gpt.engine.named_adapters import NamedAdapters
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.ragged import first_tokens

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder

M = TypeVar("M", bound=Member)

LEAST_TOKENS = 16  # of a piece: fewer cost about the same


class PromptReading(Generic[M]):
    """A prompt in progress; `members` are the texts that begin with it.

    `cache` has the beginning of the prompt, None: nothing.
    """

    def __init__(self, cache: Cache | None, member: M):
        self.members, self.cache = [member], cache
        self.prompt, self.adapter = tuple(member.request.prompt), member.adapter
        self.cached = cache.offset if cache else 0
        self.rest = len(self.prompt) - self.cached
        """Tokens of the prompt that are to be read."""
        self.logits: mx.array | None = None
        """What follows the prompt, (1, V), once it is read."""

    @property
    def remaining(self) -> int:
        """Tokens of the prompt that have not been read."""
        return len(self.prompt) - (self.cache.offset if self.cache else 0)

    def is_of(self, member: M) -> bool:
        """Whether a text begins with this prompt."""
        return self.adapter == member.adapter and self.prompt == member.request.prompt


class Reader:
    """Reads prompts with a model. `make_cache` returns the cache of rows with left padding."""

    def __init__(
        self,
        model: Decoder,
        adapters: NamedAdapters | None,
        make_cache: Callable[[Sequence[int]], Cache],
    ):
        self._model, self._adapters, self._make_cache = model, adapters, make_cache

    def read(self, readings: Sequence[PromptReading], tokens: int) -> list[mx.array]:
        """Start reading the next tokens of a prompt, or several whole prompts side by side.

        Returns arrays to wait for.
        """
        if self._adapters:
            self._adapters.use([each.adapter for each in readings])
        if len(readings) > 1:
            return self._read_side_by_side(readings)
        [only] = readings
        cache = only.cache = only.cache or self._make_cache([0])
        ids = only.prompt[cache.offset : cache.offset + tokens]
        last = self._model.hidden_states(mx.array([ids]), cache)[:, -1:]
        if not only.remaining:
            only.logits = last = self._model.logits(last)[:, 0]
        return [last, *cache.arrays()]

    def _read_side_by_side(self, readings: Sequence[PromptReading]) -> list[mx.array]:
        length = max(len(each.prompt) for each in readings)
        padding = [length - len(each.prompt) for each in readings]
        padded = [(0,) * pad + each.prompt for pad, each in zip(padding, readings, strict=True)]
        cache = self._make_cache(padding)
        hidden = self._model.hidden_states(mx.array(padded), cache)[:, -1:]
        logits, arrays = self._model.logits(hidden)[:, 0], []
        for row, (pad, each) in enumerate(zip(padding, readings, strict=True)):
            each.logits, each.cache = logits[row : row + 1], first_tokens(cache, None, row, pad)
            assert each.cache is not None  # nothing was left behind
            arrays += [each.logits, *each.cache.arrays()]
        return arrays


class Pace:
    """How many tokens of a long prompt a step may read, at most `limit`.

    While texts are in progress, reading takes about as long as a step of theirs, so that their
    tokens come half as fast. Times are those of the steps before.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._tokens = min(limit, 2 * LEAST_TOKENS)
        self._step: float | None = None  # seconds of a step without prompts, smoothed

    def tokens(self, active: bool) -> int:
        """Return how many tokens of a long prompt to read now."""
        return self._tokens if active else self.limit

    def saw(self, seconds: float, tokens: int) -> None:
        """Take the time of a step with texts in progress that read this many tokens."""
        if not tokens:
            before = seconds if self._step is None else self._step
            self._step = 0.8 * before + 0.2 * seconds
        elif tokens == self._tokens and self._step is not None:
            if seconds > 2 * self._step:
                self._tokens = max(min(self.limit, LEAST_TOKENS), self._tokens // 2)
            elif seconds < 1.5 * self._step:
                self._tokens = min(self.limit, 2 * self._tokens)


def choose(
    readings: Sequence[PromptReading[M]], pace: Pace, active: bool, turn: int
) -> list[tuple[list[PromptReading[M]], int]]:
    """Return which prompts to read now, in groups, and how many tokens of each.

    Short prompts, of which at most `pace.limit` tokens are to be read, and long ones have their
    turns, so that neither waits for the other. Short ones are read whole, and side by side if
    nothing of them is known: a product with many rows costs less than many with few.
    """
    short = [each for each in readings if each.rest <= pace.limit]
    long = [each for each in readings if each.rest > pace.limit]
    if long and (not short or turn % 2):
        return [([long[0]], min(long[0].remaining, pace.tokens(active)))]
    chosen: list[tuple[list[PromptReading[M]], int]] = []
    left, group = pace.limit, []
    for each in short:  # the oldest first
        longest = max(one.rest for one in (*group, each))
        if each.cache is not None and each.rest <= left:
            chosen.append(([each], each.rest))
            left -= each.rest
        elif each.cache is None and (len(group) + 1) * longest <= left:
            group.append(each)
    return [*chosen, (group, max(one.rest for one in group))] if group else chosen
