"""What is asked of the engine, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mlx_gpt.engine.sampler import Sampling

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A prompt of token ids to be continued.

    At most `max_tokens` tokens follow, those of tools included. The text ends before the first of
    the strings in `stop`. With `log_probabilities` the completion has them.
    """

    prompt: Sequence[int]
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    log_probabilities: bool = False

    def __post_init__(self):
        if not len(self.prompt):
            raise ValueError("the prompt is empty: begin it with the tokenizer's bos_id")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {self.max_tokens}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop must be a tuple of strings that are not empty: {self.stop!r}")
        object.__setattr__(self, "prompt", tuple(int(each) for each in self.prompt))
        object.__setattr__(self, "stop", tuple(self.stop))

    def repeat(self, times: int) -> "list[Request]":
        """Return as many requests, whose seeds count up from this one's, so that answers differ."""
        seed = self.sampling.seed
        if seed is None:
            return [self] * times
        return [
            replace(self, sampling=replace(self.sampling, seed=(seed + i) % 2**64))
            for i in range(times)
        ]


@dataclass(frozen=True)
class Piece:
    """What one step brings to one request.

    `text` is what became certain, often "": characters are never cut, and nothing is shown that may
    turn out to belong to a stop string. `token` is None where a row ends without another token.
    """

    index: int  # of the request
    token: int | None
    text: str
    forced: bool = False  # by a tool
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Completion:
    """The answer to a request.

    `ids` are the tokens without the one that ended it, if one did; after a stop string they reach
    to the token that completed it. `mask` is 1 for drawn tokens and 0 for those that a tool forced.
    `text` is what `ids` decode to, special tokens by name, cut before a stop string.
    `log_probabilities` are the model's, whatever the sampling; 0 for forced tokens.
    """

    ids: list[int]
    mask: list[int]
    text: str
    finish_reason: FinishReason
    log_probabilities: list[float] | None = None
