"""Speculative decoding (Leviathan et al. 2023, Saxena 2023): guess tokens, check them at once.

A forward pass over several tokens costs little more than one over a single token. So the model
reads the guesses together and samples after each of them; guesses are accepted while they are what
was sampled. Each sample is drawn as without guesses, with the same random keys, so the text is the
same, greedy or not, up to rounding: products of several rows add in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from mlx_gpt.engine.drafts import Draft
from mlx_gpt.engine.generation import Row, prefill
from mlx_gpt.engine.requests import Completion, Piece
from mlx_gpt.engine.sampler import Sampler, log_probabilities
from mlx_gpt.models.cache import PromptCache

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder


@dataclass
class SpeculationCounts:
    """What guessing brought."""

    passes: int = 0  # of the model, after the prompt
    guessed: int = 0
    accepted: int = 0
    tokens: int = 0  # of these passes

    def __str__(self) -> str:
        """Return one line for a terminal."""
        share = self.accepted / self.guessed if self.guessed else 0.0
        per_pass = self.tokens / self.passes if self.passes else 0.0
        return (
            f"{self.accepted} of {self.guessed} guessed tokens accepted ({share:.0%}), "
            f"{per_pass:.2f} tokens a pass of the model"
        )


class SpeculativeGeneration:
    """One request in progress, as `Generation`; `step` returns the pieces of all accepted tokens.

    `counts` is shared by all requests of an engine.
    """

    def __init__(
        self,
        model: Decoder,
        row: Row,
        draft: Draft,
        *,
        vocab_size: int,
        tokens: int,
        chunk: int,
        kv: tuple[int, int] | None,
        counts: SpeculationCounts,
        prompt_cache: PromptCache | None = None,
    ):
        self.rows = [row]
        self.counts = counts
        self._model, self._draft, self._count, self._vocab_size = model, draft, tokens, vocab_size
        self._prompt_cache = prompt_cache
        self._prompt = list(row.request.prompt)
        held = prompt_cache.take(row.request.prompt) if prompt_cache else None
        self._logits, self._cache = prefill(model, [row.request.prompt], chunk, held, kv)
        self._sampler = Sampler([row.request.sampling], [row.request.prompt], vocab_size)
        self._before: int | None = None  # the token that the logits follow

    @property
    def active(self) -> bool:
        """Whether the row is unfinished."""
        return self.rows[0].finish_reason is None

    def step(self) -> list[Piece]:
        """Return the next pieces: of the first token, then of all tokens of a pass of the model."""
        row = self.rows[0]
        if row.cancelled and self.active:
            self._store()
            return [row.finish("cancelled")]
        if not row.tokens:
            pieces, accepted = self._accept(self._logits, [])
        else:
            text = [*self._prompt, *row.tokens]
            pending = text[self._cache.offset :]  # tokens that the model has not read
            count = min(self._count, row.remaining - 1)
            guesses = self._draft.propose(text, count) if count else []
            hidden = self._model.hidden_states(mx.array([[*pending, *guesses]]), self._cache)
            logits = self._model.logits(hidden[:, len(pending) - 1 :])[0, :, : self._vocab_size]
            pieces, accepted = self._accept(logits, guesses)
            self._cache.trim(len(guesses) - accepted)
            counts = self.counts
            counts.passes, counts.guessed = counts.passes + 1, counts.guessed + len(guesses)
            counts.accepted, counts.tokens = counts.accepted + accepted, counts.tokens + len(pieces)
        if not self.active:
            self._store()
        return pieces

    def cancel(self, index: int) -> None:
        """End the request at the next step."""
        self.rows[index].cancelled = True

    def close(self) -> None:
        """End the row, and store the cache for the next turn."""
        if self.active:
            self.rows[0].finish("cancelled")
            self._store()

    def completions(self) -> list[Completion]:
        """Return the completion so far."""
        return [self.rows[0].completion()]

    def _accept(self, logits: mx.array, guesses: Sequence[int]) -> tuple[list[Piece], int]:
        """Sample until a guess is wrong; return the pieces and the number of accepted guesses.

        `logits` (T, V): the first follow the text, the others the T - 1 guesses.
        """
        row, pieces, accepted = self.rows[0], [], 0
        sampling = row.request.sampling
        plain = sampling.greedy and not sampling.is_penalized
        likeliest = cast("list[int]", mx.argmax(logits, axis=-1).tolist()) if plain else None
        for place in range(logits.shape[0]):
            here = logits[place : place + 1]
            token = likeliest[place] if likeliest else self._draw(here)
            pieces.append(row.accept(token, self._log_probability(here, token)))
            self._before = token
            is_guessed = place < len(guesses) and token == guesses[place]
            accepted += is_guessed
            while self.active and (forced := row.next_forced()) is not None:
                if not likeliest:
                    self._draw(here)  # so that each token of the text has its own random key
                pieces.append(row.accept(forced))
                self._before, is_guessed = forced, False
            if not is_guessed or not self.active:
                break
        return pieces, accepted

    def _draw(self, logits: mx.array) -> int:
        before = None if self._before is None else mx.array([self._before])
        return int(self._sampler(logits, before)[0])

    def _log_probability(self, logits: mx.array, token: int) -> float | None:
        if not self.rows[0].request.log_probabilities:
            return None
        return float(log_probabilities(logits, mx.array([token]))[0])

    def _store(self) -> None:
        if self._prompt_cache is not None:
            read = [*self._prompt, *self.rows[0].tokens]
            self._prompt_cache.store(read[: self._cache.offset], self._cache)
