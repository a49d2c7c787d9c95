"""Continuous batching: texts join and leave a running batch between any two tokens.

A step is `launch`, which starts the next tokens of all rows, and `read`, which hands out the tokens
before them; so the device computes while the caller handles text. Rows with a mask wait: their next
token is sampled in `read`, when the mask is known, and only the model runs ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import mlx.core as mx

from mlx_gpt.engine.drafts import Draft, Speculation
from mlx_gpt.engine.draws import Draw, Member, draw, force, masks, to_list
from mlx_gpt.engine.named_adapters import NamedAdapters
from mlx_gpt.engine.sampler import Sampler
from mlx_gpt.engine.speculative import SpeculationCounts
from mlx_gpt.models.cache import Cache
from mlx_gpt.models.ragged import RaggedCache

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder


M = TypeVar("M", bound=Member)


class ContinuousBatch(Generic[M]):
    """The rows and their cache. Members whose `finish_reason` is set leave at `leave`."""

    def __init__(
        self,
        model: Decoder,
        vocab_size: int,
        adapters: NamedAdapters | None = None,
        speculation: Speculation | None = None,
        counts: SpeculationCounts | None = None,
        chunk: int = 256,
    ):
        self.members: list[M] = []  # one of each row of the cache
        self.cache = RaggedCache([layer.window for layer in model.make_cache().layers])
        self._model, self._vocab_size, self._adapters = model, vocab_size, adapters
        self._speculation, self._chunk = speculation, chunk
        self.counts = counts or SpeculationCounts()
        self._draft: tuple[Member, Draft] | None = None
        self._sampler: Sampler | None = None
        self._tokens = mx.array([], mx.uint32)  # that the cache lacks, one of each row
        self._unread: list[Draw] = []
        self._next: Draw | None = None  # of `launch`
        self._logits: mx.array | None = None  # of rows that wait for masks

    @property
    def active(self) -> list[M]:
        """The rows in progress."""
        return [each for each in self.members if each.finish_reason is None]

    def join(self, members: Sequence[M], caches: Sequence[Cache], logits: mx.array) -> None:
        """Add texts whose prompts are in `caches`, of one row each; call it after `read`.

        `logits` (B, V) follow the prompts. Hands out the first tokens: nobody waits for them until
        the end of the next step, and texts that end with them need no room in the batch.
        """
        sampler = Sampler(
            [each.request.sampling for each in members],
            [each.request.prompt for each in members],
            self._vocab_size,
        )
        logits = logits[:, : self._vocab_size]
        first = draw(members, sampler, logits, None, masks(members, self._vocab_size))
        first.read()
        stay = [i for i, each in enumerate(members) if each.finish_reason is None]
        if not stay:
            return
        sampler.take(stay)
        members, tokens = [members[i] for i in stay], first.tokens[mx.array(stay)]
        self.cache.join([caches[i] for i in stay])
        self.members += members
        if self._sampler is None:
            self._sampler, self._tokens = sampler, tokens
        else:
            self._sampler.join(sampler)
            self._tokens = mx.concatenate([self._tokens, tokens])

    def launch(self) -> None:
        """Start the next token of each row."""
        known = 1 if self._unread else 0
        if not any(each.remaining > known for each in self.active):
            return
        logits = self._forward(self._tokens[:, None])[:, -1]
        if any(each.is_masked for each in self.active):
            self._logits = logits
            mx.async_eval(logits)
        else:
            self._next = self._sample_next(logits)

    def read(self) -> None:
        """Hand out the tokens from before this `launch`."""
        unread, self._unread = self._unread, []
        for each in unread:
            each.read()
        if self._logits is not None and self.active:
            self._next = self._sample_next(self._logits, masks(self.members, self._vocab_size))
        if self._next is not None:
            force(self._next)
            self._tokens, self._unread = self._next.tokens, [self._next]
        self._logits = self._next = None

    def leave(self) -> None:
        """Remove the members that have finished."""
        gone = [i for i, each in enumerate(self.members) if each.finish_reason is not None]
        if not gone:
            return
        if self._draft and self._draft[0].finish_reason is not None:
            self._draft = None
        kept = self.cache.leave(gone)
        self.members = [self.members[i] for i in kept]
        if kept:
            assert self._sampler is not None
            self._sampler.take(kept)
            self._tokens = self._tokens[mx.array(kept)]
        else:
            self._sampler, self._unread = None, []

    @property
    def can_guess(self) -> bool:
        """Whether `guess` may take the place of `launch` and `read`: with a single row."""
        only = self.active[0] if len(self.active) == len(self.members) == 1 else None
        return self._speculation is not None and only is not None and not only.is_masked

    def guess(self) -> None:
        """Hand out all tokens up to the first wrong guess, with one pass of the model.

        As `SpeculativeGeneration`, which has the reasons.
        """
        [member] = self.members
        assert self._speculation is not None
        unread, self._unread = self._unread, []
        for each in unread:
            each.read()
        if member.finish_reason is not None:
            return
        text = [*member.request.prompt, *member.tokens]
        pending = text[self.cache.offset :]
        count = min(self._speculation.tokens, member.remaining - 1)
        guesses = self._draft_of(member).propose(text, count) if count else []
        logits = self._forward(mx.array([[*pending, *guesses]]))[0, len(pending) - 1 :]
        accepted = self._check(member, logits, guesses)
        self.cache.trim(len(guesses) - accepted)
        self._tokens = mx.array(member.tokens[-1:], mx.uint32)
        counts, given = self.counts, len(member.tokens) + len(member.request.prompt) - len(text)
        counts.passes, counts.guessed = counts.passes + 1, counts.guessed + len(guesses)
        counts.accepted, counts.tokens = counts.accepted + accepted, counts.tokens + given

    def _check(self, member: Member, logits: mx.array, guesses: Sequence[int]) -> int:
        """Sample until a guess is wrong; return how many were right. `logits` (T, V)."""
        sampling, sampler = member.request.sampling, self._sampler
        assert sampler is not None
        plain = sampling.greedy and not sampling.is_penalized and member.top is None
        likeliest = to_list(mx.argmax(logits, axis=-1)) if plain else None
        accepted, before = 0, self._tokens
        for place in range(logits.shape[0]):
            if likeliest:
                found = Draw([member], mx.array(likeliest[place : place + 1], mx.uint32))
            else:
                found = draw([member], sampler, logits[place : place + 1], before)
            force(found)
            [token], before = found.read(), found.tokens
            is_right = place < len(guesses) and token == guesses[place]
            accepted += is_right
            if not is_right or member.finish_reason is not None:
                break
        return accepted

    def _draft_of(self, member: Member) -> Draft:
        assert self._speculation is not None
        if self._draft is None or self._draft[0] is not member:
            self._draft = member, self._speculation.start(self._chunk)
        return self._draft[1]

    def _forward(self, ids: mx.array) -> mx.array:
        """Return the logits (B, T, V) after `ids` (B, T), which enter the cache."""
        if self._adapters:
            self._adapters.use([each.adapter for each in self.members])
        logits = self._model.logits(self._model.hidden_states(ids, self.cache))
        return logits[..., : self._vocab_size]  # models may have padding rows

    def _sample_next(self, logits: mx.array, allowed: mx.array | None = None) -> Draw:
        assert self._sampler is not None
        return draw(self.members, self._sampler, logits, self._tokens, allowed)
