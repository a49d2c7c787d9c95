"""A batch of requests being answered, a token each at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from mlx_gpt.engine.prefill import PromptCache, prefill
from mlx_gpt.engine.requests import Completion, Piece, Request
from mlx_gpt.engine.rows import Row
from mlx_gpt.engine.sampler import Sampler, log_probabilities
from mlx_gpt.engine.tools import Markers, ToolUse

if TYPE_CHECKING:
    from mlx_gpt.models.formats import Decoder
    from mlx_gpt.tokenizer import Tokenizer


class Generation:
    """Call `step` while `active`; rows that end leave the batch.

    While the caller looks at one token, the next is being computed: of a row that ends, that one is
    thrown away. `cancel` may be called from any thread.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        requests: Sequence[Request],
        *,
        end_ids: frozenset[int],
        markers: Markers | None = None,
        chunk: int = 512,
        prompt_cache: PromptCache | None = None,
    ):
        self.rows = [
            Row(i, request, tokenizer, ToolUse(tokenizer, markers) if markers else None, end_ids)
            for i, request in enumerate(requests)
        ]
        self._model = model
        self._vocab_size = tokenizer.vocab_size
        self._batch = list(self.rows)  # rows of the arrays below
        self._prompt_cache = prompt_cache
        self._usable = False  # whether the cache holds what was read, as it does between steps
        held = prompt_cache.take(requests[0].prompt) if prompt_cache else None
        logits, self._cache = prefill(model, [each.prompt for each in requests], chunk, held)
        self._sampler = Sampler([each.sampling for each in requests])
        self._tokens, self._chances = self._draw(logits)
        self._usable = True

    @property
    def active(self) -> bool:
        """Whether any row goes on."""
        return bool(self._batch)

    def step(self) -> list[Piece]:
        """Return what the next token brings to each row that was going on, in order."""
        pieces = [row.finish("cancelled") for row in self._batch if row.cancelled]
        self._drop_finished()
        if not self._batch:
            return pieces
        self._usable = False
        tokens, chances = self._tokens, self._chances
        if any(row.remaining > 1 for row in self._batch):
            self._tokens, self._chances = self._next(tokens)
        known = _numbers(tokens)  # waits for this token, while the next is on its way
        logs = [None] * len(known) if chances is None else _numbers(chances)
        for row, token, log in zip(self._batch, known, logs, strict=True):
            pieces.append(row.accept(token, log))
        self._force([row.next_forced() for row in self._batch])
        self._usable = True
        self._drop_finished()
        return sorted(pieces, key=lambda piece: piece.index)

    def cancel(self, index: int) -> None:
        """End a request at the next step; its completion is what it has so far."""
        self.rows[index].cancelled = True

    def close(self) -> None:
        """End all rows, and keep what the model has read for the next turn."""
        for row in self._batch:
            row.finish("cancelled")
        self._drop_finished()

    def completions(self) -> list[Completion]:
        """Return all answers, in the order of the requests, as far as they got."""
        return [row.completion() for row in self.rows]

    def _next(self, tokens: mx.array) -> tuple[mx.array, mx.array | None]:
        hidden = self._model.hidden_states(tokens[:, None], self._cache)
        return self._draw(self._model.logits(hidden)[:, -1])

    def _draw(self, logits: mx.array) -> tuple[mx.array, mx.array | None]:
        """Start computing a token a row, and its log-probability where a row wants it."""
        logits = logits[:, : self._vocab_size]  # models may have more rows than there are tokens
        tokens, chances = self._sampler(logits), None
        if any(row.request.log_probabilities for row in self._batch):
            chances = log_probabilities(logits, tokens)
        mx.async_eval(tokens, *([] if chances is None else [chances]))
        return tokens, chances

    def _force(self, forced: list[int | None]) -> None:
        """Replace tokens that were drawn before a tool's answer was known."""
        if any(token is not None for token in forced):
            wanted = mx.array([-1 if token is None else token for token in forced])
            self._tokens = mx.where(wanted >= 0, wanted.astype(self._tokens.dtype), self._tokens)

    def _drop_finished(self) -> None:
        going = [i for i, row in enumerate(self._batch) if row.finish_reason is None]
        if len(going) == len(self._batch):
            return
        if going:
            self._cache.take(going)
            self._sampler.take(going)
            self._tokens = self._tokens[mx.array(going)]
            if self._chances is not None:
                self._chances = self._chances[mx.array(going)]
        elif self._prompt_cache is not None and self._usable:
            row = self._batch[0]
            read = [*row.request.prompt, *row.tokens]
            self._prompt_cache.keep(read[: self._cache.seen], self._cache)
        self._batch = [self._batch[i] for i in going]


def _numbers(array: mx.array) -> list:
    return cast("list", array.tolist())
