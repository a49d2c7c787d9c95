"""Tokens of a batch that were sampled, and what their texts want to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import mlx.core as mx
import numpy as np

from mlx_gpt.engine.requests import Request
from mlx_gpt.engine.sampler import Sampler, log_probabilities


@dataclass(frozen=True)
class TokenLog:
    """The log-probability of a token, and the likeliest tokens with theirs, likeliest first."""

    log_probability: float
    top: tuple[tuple[int, float], ...] = ()


class Member(Protocol):
    """A text in the batch; `accept` takes its tokens one by one."""

    @property
    def request(self) -> Request:
        """The prompt and the settings."""
        ...

    @property
    def adapter(self) -> str | None:
        """The name of its adapter."""
        ...

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens to log; None: no log at all."""
        ...

    @property
    def tokens(self) -> list[int]:
        """The tokens after the prompt."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why it has ended; None: it goes on."""
        ...

    @property
    def remaining(self) -> int:
        """Number of tokens that may still follow."""
        ...

    @property
    def is_masked(self) -> bool:
        """Whether each token must be known before the next one is sampled."""
        ...

    def mask(self) -> np.ndarray | None:
        """Return which tokens may follow, boolean (vocab_size,); None: all."""
        ...

    def accept(self, token: int, log: TokenLog | None) -> None:
        """Take the next token; may set `finish_reason`."""
        ...

    def next_forced(self) -> int | None:
        """Return the token to force next, None if it is sampled."""
        ...


@dataclass
class Draw:
    """Tokens (B,) that were sampled and not yet read."""

    members: list[Member]
    tokens: mx.array
    chosen: mx.array | None = None  # log-probabilities (B,)
    top: tuple[mx.array, mx.array] | None = None  # ids and log-probabilities (B, k)

    def arrays(self) -> list[mx.array]:
        """Return all arrays, to evaluate them."""
        return [each for each in (self.tokens, self.chosen, *(self.top or ())) if each is not None]

    def read(self) -> list[int]:
        """Hand the tokens out; return them."""
        known = to_list(self.tokens)
        logs = [None] * len(known) if self.chosen is None else self._logs()
        for member, token, log in zip(self.members, known, logs, strict=True):
            if member.finish_reason is None:
                member.accept(token, None if member.top is None else log)
        return known

    def _logs(self) -> list[TokenLog]:
        assert self.chosen is not None
        chosen = to_list(self.chosen)
        if self.top is None:
            return [TokenLog(each) for each in chosen]
        likeliest = zip(*map(to_list, self.top), strict=True)
        logs = []
        for member, value, (ids, values) in zip(self.members, chosen, likeliest, strict=True):
            pairs = sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))
            logs.append(TokenLog(value, tuple(pairs[: member.top or 0])))
        return logs


def draw(
    members: Sequence[Member],
    sampler: Sampler,
    logits: mx.array,
    before: mx.array | None,
    allowed: mx.array | None = None,
) -> Draw:
    """Start sampling a token per row from `logits` (B, V), and its log if any of them wants one.

    `before` (B,) are the tokens that the logits follow, None after the prompts. Tokens that are
    not `allowed` (B, V) are not sampled; the log is of the model all the same.
    """
    found = Draw(list(members), sampler(_only(logits, allowed), before))
    wanted = [each.top for each in members if each.top is not None]
    if wanted:
        found.chosen = log_probabilities(logits, found.tokens)
    if count := min(max(wanted, default=0), logits.shape[-1]):
        ids = mx.argpartition(-logits, count - 1, axis=-1)[:, :count]
        values = mx.take_along_axis(logits, ids, axis=-1)
        found.top = ids, values - mx.logsumexp(logits, axis=-1, keepdims=True)
    mx.async_eval(*found.arrays())
    return found


def masks(members: Sequence[Member], vocab_size: int) -> mx.array | None:
    """Return which tokens may follow, boolean (B, V); None: all. Members may end over it."""
    found = [_mask(each) for each in members]
    if all(each is None for each in found):
        return None
    every = np.ones(vocab_size, bool)
    return mx.array(np.stack([every if each is None else each for each in found]))


def force(given: Draw) -> None:
    """Replace tokens that were sampled before a tool's result was known."""
    forced = [each.next_forced() if each.finish_reason is None else None for each in given.members]
    if any(token is not None for token in forced):
        wanted = mx.array([-1 if token is None else token for token in forced])
        given.tokens = mx.where(wanted >= 0, wanted.astype(given.tokens.dtype), given.tokens)


def _mask(member: Member) -> np.ndarray | None:
    return member.mask() if member.finish_reason is None else None


def _only(logits: mx.array, allowed: mx.array | None) -> mx.array:
    return logits if allowed is None else mx.where(allowed, logits, -mx.inf)


def to_list(array: mx.array) -> list:
    """Return an array as a list, once it is computed."""
    return cast("list", array.tolist())
