"""Prompts that are read between the steps of the texts in progress, a few layers at a time.

A pass of the model over a piece of a prompt is computed in slices of its layers, and what is not
computed yet waits: for the next tokens of the texts in progress, or for a shorter prompt that came
later. So pieces can be long enough to be read fast, and nobody waits for a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import mlx.core as mx

from mlx_gpt.engine.draws import Member
from mlx_gpt.engine.named_adapters import NamedAdapters
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.packed import PackedCache, Part

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder

M = TypeVar("M", bound=Member)

_SLICES = 8  # of a pass
_PATIENCE = 8  # passes that a prompt waits for shorter ones
_STALE = 64  # steps after which the time of a step without prompts is measured again
_SHARE = 0.75  # of the time of a step, that it may read in addition


class PromptReading(Generic[M]):
    """A prompt in progress; `members` are the texts that begin with it.

    `cache` has the beginning of the prompt, None: nothing.
    """

    def __init__(self, cache: Cache | None, member: M):
        self.members, self.cache = [member], cache
        self.prompt, self.adapter = tuple(member.request.prompt), member.adapter
        self.cached = cache.offset if cache else 0
        self.begun: Pass[M] | None = None
        """What is being read of it."""
        self.waited = 0
        """Passes since it was read last."""
        self.logits: mx.array | None = None
        """What follows the prompt, (1, V), once it is read."""

    @property
    def remaining(self) -> int:
        """Tokens of the prompt that no pass has."""
        return len(self.prompt) - (self.cache.offset if self.cache else 0)

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are still to be computed, with those of the pass begun."""
        return self.remaining + (self.begun.tokens if self.begun else 0)

    @property
    def is_done(self) -> bool:
        """Whether the whole prompt has been read, and `logits` are known."""
        return self.logits is not None and self.begun is None

    def is_of(self, member: M) -> bool:
        """Whether a text begins with this prompt."""
        return self.adapter == member.adapter and self.prompt == member.request.prompt


class Pass(Generic[M]):
    """A pass over `tokens` of prompts, `readings`, computed by `advance`."""

    def __init__(
        self, readings: Sequence[PromptReading[M]], tokens: int, slices: list[list[mx.array]]
    ):
        self.readings, self.tokens, self._slices = readings, tokens, slices

    def advance(self) -> bool:
        """Compute a slice; return whether the pass is done."""
        mx.eval(self._slices.pop(0))
        if self._slices:
            return False
        for each in self.readings:
            each.begun = None
        return True


class Reader:
    """Reads prompts with a model. `make_cache` returns the cache of rows with left padding."""

    def __init__(
        self,
        model: Decoder,
        adapters: NamedAdapters | None,
        make_cache: Callable[[Sequence[int]], Cache],
    ):
        self._model, self._adapters, self._make_cache = model, adapters, make_cache

    def begin(self, pieces: Sequence[tuple[PromptReading[M], int]]) -> Pass[M]:
        """Begin a pass over the next tokens of these prompts."""
        ids, names, parts, ends = [], [], [], []
        for each, tokens in pieces:
            cache = each.cache = each.cache or self._make_cache([0])
            cache.expect(len(each.prompt))
            ids += each.prompt[cache.offset : cache.offset + tokens]
            names += [each.adapter] * tokens
            parts.append(Part(cache, tokens))
            if each.remaining == tokens:
                ends.append((each, len(ids) - 1))
        is_single = len(parts) == 1
        if self._adapters:
            self._adapters.use(names[:1] if is_single else names)
        rows = mx.array(ids)[None] if is_single else mx.array(ids)[:, None]
        cache = parts[0].cache if is_single else PackedCache(parts)
        found = self._model.hidden_states(rows, cache).flatten(0, 1)
        slices = _slices(parts, found)
        if ends:
            logits = self._model.logits(found[mx.array([place for _, place in ends])])
            for i, (each, _) in enumerate(ends):
                each.logits = logits[i : i + 1]
            slices.append([logits])
        begun = Pass([each for each, _ in pieces], len(ids), slices)
        for each, _ in pieces:
            each.begun = begun
        return begun


def _slices(parts: Sequence[Part], found: mx.array) -> list[list[mx.array]]:
    """Return arrays whose computation ends in some layer, and at last those of all layers."""
    of_layers = [
        [array for layer in layers for array in layer.parts]
        for layers in zip(*(each.cache.layers for each in parts), strict=True)
    ]
    step = -(-len(of_layers) // _SLICES)
    rest = [found, *(array for each in parts for array in each.cache.arrays())]
    return [*of_layers[step::step], rest]


def choose(readings: Sequence[PromptReading[M]], limit: int) -> list[tuple[PromptReading[M], int]]:
    """Return what to read in the next pass, at most `limit` tokens; the first may have one begun.

    Prompts with the fewest tokens left come first, except that none waits for more than `_PATIENCE`
    passes. Those that end in this pass are not slowed down by a piece of one that does not.
    """
    order = sorted(readings, key=lambda each: (each.waited < _PATIENCE, each.unread))
    if not order or order[0].begun:
        return [(each, 0) for each in order[:1]]
    chosen: list[tuple[PromptReading[M], int]] = []
    for each in order:
        if not each.begun and limit and (each.remaining <= limit or not chosen):
            chosen.append((each, min(each.remaining, limit)))
            limit -= chosen[-1][1]
    for each in readings:
        each.waited += 1
    for each, _ in chosen:
        each.waited = 0
    return chosen


class Pace:
    """How long a step may read prompts: few steps should take twice as long as without them.

    That is for long prompts. Each of several short ones that wait, of a pass at most, adds as much:
    a batch with more texts writes more in a second.
    """

    def __init__(self):
        self._step, self._writing = 0.0, 0  # seconds of a step without prompts, and with how many
        self._since = _STALE  # steps since that was seen
        self._read = False  # whether the step before did

    def seconds(self, writing: int, short: int) -> float:
        """Return how long the next step should take; 0 for a step without prompts.

        `writing` texts are in progress, and so many `short` prompts wait.
        """
        if self._since >= _STALE or not self._is_alike(writing):
            return 0.0
        return self._step * (1 + _SHARE * max(1, short))

    def saw(self, seconds: float, writing: int, read: bool) -> None:
        """Take the time of a step with texts in progress, and whether it read prompts."""
        had_read, self._read = self._read, read
        self._since += 1
        if not read and not had_read:  # a step may wait for what was started in the step before
            before = self._step if self._is_alike(writing) else seconds
            self._step, self._writing = 0.8 * before + 0.2 * seconds, writing
            self._since = 0

    def _is_alike(self, writing: int) -> bool:
        """Whether steps with so many texts take about as long as the one that was seen."""
        return writing < 2 * self._writing and self._writing < 2 * writing
