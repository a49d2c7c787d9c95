"""What the HTTP side asks of the scheduler, and what it gets back token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from mlx_gpt.engine.sampling import Sampling

FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]


class TokenMask(Protocol):
    """Which tokens may follow, for constrained decoding; one object a request, with a state.

    It is called in the engine thread, once a token of its request.
    """

    @property
    def ended(self) -> bool:
        """Whether nothing may follow but an end token."""
        ...

    def allowed(self) -> np.ndarray | None:
        """Return the mask of allowed tokens, boolean (vocab_size,); None allows all."""
        ...

    def accept(self, token: int) -> None:
        """Take the next token of the answer."""
        ...


@dataclass(frozen=True)
class Generate:
    """A request to continue `prompt`.

    The answer has at most `max_tokens` tokens, and ends earlier at the end of the context
    (`finish_reason` "length" for both), before the first of the strings in `stop`, at one of
    `end_ids` (None: the engine's) or after `seconds` in all, waiting included. `adapter` is one of
    the scheduler's names, None for the model itself. With `top_log_probabilities` of k each token
    comes with its log-probability and the k likeliest tokens; 0 gives the chosen token's alone.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    top_log_probabilities: int | None = None
    adapter: str | None = None
    grammar: TokenMask | None = field(default=None, compare=False)
    seconds: float | None = None
    end_ids: frozenset[int] | None = None

    def __post_init__(self):
        if not self.prompt:
            raise ValueError("the prompt is empty: begin it with the tokenizer's bos_id")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {self.max_tokens}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop must be a tuple of strings that are not empty: {self.stop!r}")
        if self.top_log_probabilities is not None and self.top_log_probabilities < 0:
            raise ValueError(
                f"top_log_probabilities must be 0 or more, got {self.top_log_probabilities}"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")


@dataclass(frozen=True)
class Delta:
    """One step of an answer; the last one has a `finish_reason`, and no delta follows it.

    `token` is None if the answer ends without another token: at an end token, which is not part
    of the answer, cancelled, out of time, or with an error. `text` is often "": characters are
    never split, and what may begin a stop string is held back, so that the texts together are the
    answer. `log_probability` and `top` (token, log-probability), likeliest first, are of the model
    at temperature 1, before penalties, biases and grammar. Each delta has the number of
    `prompt_tokens`, and how many of them came from the prefix cache. `error` says what went wrong.
    """

    token: int | None
    text: str
    finish_reason: FinishReason | None = None
    log_probability: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Ticket:
    """A submitted request, to cancel it."""

    number: int


@dataclass(frozen=True)
class Stats:
    """What a scheduler does now, and has done since its start."""

    active: int = 0
    """Requests in the batch, those whose prompt is being read included."""
    queued: int = 0
    prompt_tokens: int = 0
    """Of all admitted requests, those from the prefix cache included."""
    cached_tokens: int = 0
    """Of these, from the prefix cache."""
    generated_tokens: int = 0
    finished: Mapping[str, int] = field(default_factory=dict)
    """Requests by finish reason."""
    prefix_bytes: int = 0
    prefix_entries: int = 0
    prefix_hits: int = 0
    """Requests that found some of their prompt."""
    steps: int = 0
    guessed_tokens: int = 0
    """By speculative decoding; `accepted_tokens` of them were right."""
    accepted_tokens: int = 0
    memory_bytes: int = 0
    """Of keys and values that the requests in the batch may need in all."""
    failures: int = 0
    """Steps that raised an exception and ended the requests in them."""


class Refused(Exception):
    """A request that is not queued; its message says why and what to do."""


class QueueFull(Refused):
    """As many requests wait as may; `retry_after` is an estimate in seconds."""

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"{waiting} requests are waiting; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class TooLong(Refused):
    """The prompt leaves no room for an answer."""

    def __init__(self, prompt: int, limit: int):
        super().__init__(
            f"the prompt has {prompt:,} tokens, but the model's context has {limit:,}, the answer "
            "included; shorten the prompt"
        )
        self.prompt, self.limit = prompt, limit


class Draining(Refused):
    """The scheduler ends, has ended or has failed."""


class NotEnoughMemory(Refused):
    """The keys and values of the request would not fit even alone."""

    def __init__(self, needed: int, limit: int):
        super().__init__(
            f"the request may need {needed:,} bytes of keys and values, and {limit:,} are "
            "available; shorten the prompt or lower max_tokens"
        )
        self.needed, self.limit = needed, limit


class UnknownAdapter(Refused):
    """No adapter has this name."""

    def __init__(self, name: str, known: tuple[str, ...]):
        listed = ", ".join(map(repr, known)) or "none"
        super().__init__(f"there is no adapter {name!r} here: {listed}")
        self.name, self.known = name, known
