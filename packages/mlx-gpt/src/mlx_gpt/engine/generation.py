"""Generate completions for a batch of requests, one token of each per step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from mlx_gpt.engine.requests import Completion, FinishReason, Piece, Request, TextStream
from mlx_gpt.engine.sampler import Sampler, log_probabilities
from mlx_gpt.engine.tools import ToolUse
from mlx_gpt.models.cache import Cache, PromptCache

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder
    from mlx_gpt.tokenizer import AnyTokenizer


class Generation:
    """A batch in progress: call `step` while `active`. Finished rows leave the batch.

    The next tokens are computed while the caller handles the current ones; tokens computed for rows
    that just finished are discarded. `cancel` may be called from any thread. `kv` has the bits and
    the group size of quantized keys and values.
    """

    def __init__(
        self,
        model: Decoder,
        rows: Sequence[Row],
        *,
        vocab_size: int,
        chunk: int = 512,
        kv: tuple[int, int] | None = None,
        prompt_cache: PromptCache | None = None,
    ):
        self.rows = list(rows)
        requests = [row.request for row in rows]
        self._model = model
        self._vocab_size = vocab_size
        self._batch = list(self.rows)  # rows of the arrays below
        self._prompt_cache = prompt_cache
        self._consistent = False  # whether the cache matches the tokens; true only between steps
        held = prompt_cache.take(requests[0].prompt) if prompt_cache else None
        prompts = [each.prompt for each in requests]
        logits, self._cache = prefill(model, prompts, chunk, held, kv)
        self._sampler = Sampler([each.sampling for each in requests], prompts, vocab_size)
        self._tokens, self._log_probabilities = self._sample(logits)
        self._consistent = True

    @property
    def active(self) -> bool:
        """Whether any row is unfinished."""
        return bool(self._batch)

    def step(self) -> list[Piece]:
        """Return the next piece of each unfinished row, in the order of the requests."""
        pieces = [row.finish("cancelled") for row in self._batch if row.cancelled]
        self._drop_finished()
        if not self._batch:
            return pieces
        self._consistent = False
        tokens, log_probs = self._tokens, self._log_probabilities
        if any(row.remaining > 1 for row in self._batch):
            self._tokens, self._log_probabilities = self._next(tokens)
        known = _to_list(tokens)  # waits for these tokens while the next ones are computed
        logs = [None] * len(known) if log_probs is None else _to_list(log_probs)
        for row, token, log in zip(self._batch, known, logs, strict=True):
            pieces.append(row.accept(token, log))
        self._force([row.next_forced() for row in self._batch])
        self._consistent = True
        self._drop_finished()
        return sorted(pieces, key=lambda piece: piece.index)

    def cancel(self, index: int) -> None:
        """End a request at the next step; its completion is the text so far."""
        self.rows[index].cancelled = True

    def close(self) -> None:
        """End all rows, and store the cache for the next turn."""
        for row in self._batch:
            row.finish("cancelled")
        self._drop_finished()

    def completions(self) -> list[Completion]:
        """Return the completions so far, in the order of the requests."""
        return [row.completion() for row in self.rows]

    def _next(self, tokens: mx.array) -> tuple[mx.array, mx.array | None]:
        hidden = self._model.hidden_states(tokens[:, None], self._cache)
        return self._sample(self._model.logits(hidden)[:, -1], tokens)

    def _sample(
        self, logits: mx.array, before: mx.array | None = None
    ) -> tuple[mx.array, mx.array | None]:
        """Start sampling a token per row, and its log-probability if any request needs it."""
        logits = logits[:, : self._vocab_size]  # models may have padding rows
        tokens, log_probs = self._sampler(logits, before), None
        if any(row.request.log_probabilities for row in self._batch):
            log_probs = log_probabilities(logits, tokens)
        mx.async_eval(tokens, *([] if log_probs is None else [log_probs]))
        return tokens, log_probs

    def _force(self, forced: list[int | None]) -> None:
        """Replace tokens that were sampled before a tool's result was known."""
        if any(token is not None for token in forced):
            wanted = mx.array([-1 if token is None else token for token in forced])
            self._tokens = mx.where(wanted >= 0, wanted.astype(self._tokens.dtype), self._tokens)

    def _drop_finished(self) -> None:
        active = [i for i, row in enumerate(self._batch) if row.finish_reason is None]
        if len(active) == len(self._batch):
            return
        if active:
            self._cache.take(active)
            self._sampler.take(active)
            self._tokens = self._tokens[mx.array(active)]
            if self._log_probabilities is not None:
                self._log_probabilities = self._log_probabilities[mx.array(active)]
        elif self._prompt_cache is not None and self._consistent:
            row = self._batch[0]
            read = [*row.request.prompt, *row.tokens]
            self._prompt_cache.store(read[: self._cache.offset], self._cache)
        self._batch = [self._batch[i] for i in active]


class Row:
    """A request in a batch; `accept` takes its tokens one by one."""

    def __init__(
        self,
        index: int,
        request: Request,
        tokenizer: AnyTokenizer,
        tools: ToolUse | None,
        end_ids: frozenset[int],
    ):
        self.index = index
        self.request = request
        self.cancelled = False
        self.finish_reason: FinishReason | None = None
        self.tokens: list[int] = []  # after the prompt, the end token included
        self._tokenizer = tokenizer
        self._tools = tools
        self._end_ids = end_ids
        self._stream = TextStream(request.stop)
        self._text: list[str] = []
        self._mask: list[int] = []
        self._log_probabilities: list[float] = []
        self._queue: deque[int] = deque()  # tokens to force next
        self._forced = False  # whether the next token is forced
        self._ended = False  # by one of the end ids

    @property
    def remaining(self) -> int:
        """Number of tokens that may still follow."""
        return self.request.max_tokens - len(self.tokens)

    def next_forced(self) -> int | None:
        """Return the token to force next, None if it is sampled."""
        self._forced = bool(self._queue)
        return self._queue.popleft() if self._queue else None

    def accept(self, token: int, log_probability: float | None = None) -> Piece:
        """Add the next token."""
        self.tokens.append(token)
        forced = self._forced
        if not forced and token in self._end_ids:
            self._ended = True
            return self.finish("stop")
        self._mask.append(0 if forced else 1)
        if log_probability is not None:
            self._log_probabilities.append(0.0 if forced else log_probability)
        if self._tools and not forced:
            self._queue.extend(self._tools.accept(token))
        text = self._stream.add(self._tokenizer.decode_bytes([token]))
        reason = "stop" if self._stream.stopped else None if self.remaining else "length"
        if reason:
            return self.finish(reason, token, text, forced)
        self._text.append(text)
        return Piece(self.index, token, text, forced)

    def finish(
        self, reason: FinishReason, token: int | None = None, text: str = "", forced: bool = False
    ) -> Piece:
        """End the row; return the last piece, with the text held back so far."""
        text += self._stream.finish()
        self._text.append(text)
        self.finish_reason = "stop" if self._stream.stopped else reason
        return Piece(self.index, token, text, forced, self.finish_reason)

    def completion(self) -> Completion:
        """Return the completion so far."""
        return Completion(
            self.tokens[:-1] if self._ended else list(self.tokens),
            list(self._mask),
            "".join(self._text),
            self.finish_reason or "cancelled",
            list(self._log_probabilities) if self.request.log_probabilities else None,
        )


def prefill(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    chunk: int,
    cache: Cache | None = None,
    kv: tuple[int, int] | None = None,
) -> tuple[mx.array, Cache]:
    """Process prompts; return the logits of the next tokens, (B, V), and the cache.

    Equal prompts are processed once. At most `chunk` positions go through the model at a time, and
    only the last one through its head. A given `cache` contains the beginning of the only prompt.
    """
    unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    length = max(len(prompt) for prompt in unique)
    padding = [length - len(prompt) for prompt in unique]
    cache = make_cache(model, padding, kv) if cache is None else cache
    padded = [(0,) * pad + prompt for pad, prompt in zip(padding, unique, strict=True)]
    ids = mx.array(padded)[:, cache.offset :]
    last = None
    for begin in range(0, ids.shape[1], chunk):
        last = model.hidden_states(ids[:, begin : begin + chunk], cache)[:, -1:]
        mx.eval(last, cache.arrays())
    assert last is not None  # prompts are not empty
    logits = model.logits(last)[:, 0]
    if len(unique) < len(prompts):
        place = {prompt: i for i, prompt in enumerate(unique)}
        rows = [place[tuple(prompt)] for prompt in prompts]
        cache.take(rows)
        logits = logits[mx.array(rows)]
    return logits, cache


def make_cache(model: Decoder, padding: Sequence[int], kv: tuple[int, int] | None) -> Cache:
    """Return an empty cache; `kv` are the bits and the group size of keys and values, or None."""
    cache = model.make_cache(padding)
    if kv:
        cache.quantize(*kv)
    return cache


def _to_list(array: mx.array) -> list:
    return cast("list", array.tolist())
