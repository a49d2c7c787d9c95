"""Guesses of the next tokens for speculative decoding: by a small model, or from the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import mlx.core as mx

from mlx_gpt.models import cache as caches
from mlx_gpt.models.cache import Cache, common_prefix

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder
    from mlx_gpt.tokenizer import AnyTokenizer


class Draft(Protocol):
    """Guesses the tokens after a text; each call has a longer text or a corrected one."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Return at most `count` tokens that may follow `ids`."""
        ...


@dataclass(frozen=True)
class Speculation:
    """How to guess `tokens` tokens at a time: by `model`, or else by the last `ngram` tokens."""

    tokens: int = 4
    ngram: int = 3
    model: Decoder | None = None

    def __post_init__(self):
        if not 1 <= self.tokens < caches.SLACK:
            raise ValueError(f"guess 1 to {caches.SLACK - 1} tokens at a time, got {self.tokens}")
        if self.ngram < 1:
            raise ValueError(f"ngram must be 1 or more, got {self.ngram}")

    def start(self, chunk: int) -> Draft:
        """Return the guesses of one text; a model reads at most `chunk` tokens at a time."""
        return ModelDraft(self.model, chunk) if self.model else NgramDraft(self.ngram)


class NgramDraft:
    """Guesses that the text goes on as after the latest place with the same last tokens.

    The last `longest` tokens are looked up first, then fewer, down to 2 (to 1 if it is 1).
    """

    def __init__(self, longest: int):
        self._lengths = range(longest, min(longest, 2) - 1, -1)
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # n-gram -> the position after it

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Return what followed the same tokens before, [] if they are new."""
        self._add(list(ids))
        for length in self._lengths:
            place = self._next.get(tuple(ids[-length:])) if length < len(ids) else None
            if place is not None:
                return list(ids[place : place + count])
        return []

    def _add(self, ids: list[int]) -> None:
        """Enter the n-grams of `ids` except the last ones, after which nothing follows yet."""
        first = max(1, len(self._ids))
        if self._ids != ids[: len(self._ids)]:  # another text
            first, self._next = 1, {}
        for place in range(first, len(ids)):
            for length in self._lengths:
                if place >= length:
                    self._next[tuple(ids[place - length : place])] = place
        self._ids = ids


class ModelDraft:
    """Guesses the tokens that a model finds most likely."""

    def __init__(self, model: Decoder, chunk: int):
        self._model, self._chunk = model, chunk
        self._cache: Cache = model.make_cache()
        self._ids: list[int] = []  # in the cache

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Return `count` tokens."""
        shared = min(common_prefix(self._ids, ids), len(ids) - 1)
        if self._cache.can_trim(len(self._ids) - shared):
            self._cache.trim(len(self._ids) - shared)
        else:
            shared, self._cache = 0, self._model.make_cache()
        found: list[mx.array] = []
        token = self._read(mx.array([list(ids[shared:])]))
        for _ in range(count - 1):
            found.append(token)
            token = self._read(token[None])
        guesses = cast("list[int]", mx.concatenate([*found, token]).tolist())
        self._ids = [*ids, *guesses[:-1]]
        return guesses

    def _read(self, ids: mx.array) -> mx.array:
        """Add tokens (1, T); return the most likely next one, (1,)."""
        hidden = None
        for begin in range(0, ids.shape[1], self._chunk):
            part = ids[:, begin : begin + self._chunk]
            hidden = self._model.hidden_states(part, self._cache)[:, -1:]
            if ids.shape[1] > self._chunk:
                mx.eval(hidden, self._cache.arrays())
        assert hidden is not None  # ids are not empty
        return mx.argmax(self._model.logits(hidden)[0], axis=-1)


def check_draft(tokenizer: AnyTokenizer, draft: AnyTokenizer) -> None:
    """Raise `ValueError` unless the two tokenizers give the same ids the same bytes."""
    if tokenizer.sha256 == draft.sha256:
        return
    if tokenizer.vocab_size == draft.vocab_size:
        ids = range(tokenizer.vocab_size)
        different = next((i for i in ids if tokenizer.piece(i) != draft.piece(i)), None)
        if different is None:
            return
        reason = f"id {different} is {tokenizer.piece(different)!r} and {draft.piece(different)!r}"
    else:
        reason = f"they have {tokenizer.vocab_size:,} and {draft.vocab_size:,} tokens"
    raise ValueError(f"the draft model has another tokenizer than the model: {reason}")
