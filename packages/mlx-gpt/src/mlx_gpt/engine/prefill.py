"""Read prompts into a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_gpt.engine.cache import Cache

if TYPE_CHECKING:
    from mlx_gpt.models.formats import Decoder


class PromptCache:
    """What a model has read of one conversation, so that the next turn costs only its own tokens.

    Give it to `Engine.stream` with every turn; it is used if the new prompt begins with what was
    read, and starts again otherwise.
    """

    def __init__(self):
        self.ids: list[int] = []
        self.cache: Cache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held."""
        return self.cache.nbytes if self.cache else 0

    def take(self, prompt: Sequence[int]) -> Cache | None:
        """Return the cache if the prompt begins with `ids` and goes on; hold nothing after that."""
        ids, cache = self.ids, self.cache
        self.ids, self.cache = [], None
        fits = len(ids) < len(prompt) and list(prompt[: len(ids)]) == ids
        return cache if fits else None

    def keep(self, ids: Sequence[int], cache: Cache) -> None:
        """Hold a cache, and the tokens that it has read."""
        self.ids, self.cache = list(ids), cache


def prefill(
    model: Decoder, prompts: Sequence[Sequence[int]], chunk: int, cache: Cache | None = None
) -> tuple[mx.array, Cache]:
    """Read prompts of any lengths; return logits of the tokens after them, (B, V), and the cache.

    Equal prompts are read once. At most `chunk` positions go through the model at a time, and only
    the last one through its head. A `cache` of one row has read the beginning of the only prompt.
    """
    different = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    length = max(len(prompt) for prompt in different)
    padding = [length - len(prompt) for prompt in different]
    cache = model.make_cache(padding) if cache is None else cache
    padded = [(0,) * pad + prompt for pad, prompt in zip(padding, different, strict=True)]
    ids = mx.array(padded)[:, cache.seen :]
    last = None
    for begin in range(0, ids.shape[1], chunk):
        last = model.hidden_states(ids[:, begin : begin + chunk], cache)[:, -1:]
        mx.eval(last, cache.arrays())
    assert last is not None  # prompts are not empty
    logits = model.logits(last)[:, 0]
    if len(different) < len(prompts):
        place = {prompt: i for i, prompt in enumerate(different)}
        rows = [place[tuple(prompt)] for prompt in prompts]
        cache.take(rows)
        logits = logits[mx.array(rows)]
    return logits, cache
