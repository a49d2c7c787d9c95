"""Requests and their completions, and text that ends at stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mlx_gpt.engine.sampling import Sampling

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A prompt of token ids to continue.

    At most `max_tokens` tokens are added, tool results included. The text ends before the first of
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

    def repeat(self, times: int) -> list[Request]:
        """Return the request `times` times; with a seed, the seeds count up from it."""
        seed = self.sampling.seed
        if seed is None:
            return [self] * times
        return [
            replace(self, sampling=replace(self.sampling, seed=(seed + i) % 2**64))
            for i in range(times)
        ]


@dataclass(frozen=True)
class Piece:
    """The output of one step for one request.

    `text` is often "": characters are never split, and text that may belong to a stop string is
    held back. `token` is None if a row ends without another token.
    """

    index: int  # of the request
    token: int | None
    text: str
    forced: bool = False  # by a tool
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Completion:
    """The answer to a request.

    `ids` are the tokens without the end token; after a stop string they include the token that
    completed it. `mask` is 1 for sampled tokens and 0 for those that a tool forced. `text` is the
    decoded `ids`, with names of special tokens, up to a stop string. `log_probabilities` are the
    model's at temperature 1 and without filters; 0 for forced tokens.
    """

    ids: list[int]
    mask: list[int]
    text: str
    finish_reason: FinishReason
    log_probabilities: list[float] | None = None


class TextStream:
    """Decodes UTF-8 incrementally and stops before the first stop string.

    A token may end inside a character, and a stop string may begin and end inside tokens, so
    undecided text is held back. The result does not depend on how the bytes are split. The stop
    string that ends first counts; of several, the longest. Invalid UTF-8 becomes U+FFFD.
    """

    def __init__(self, stop: Sequence[str] = ()):
        self.stopped = False
        self._stop = tuple(stop)
        self._longest = max((len(each) for each in self._stop), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # may be the beginning of a stop string

    def add(self, data: bytes) -> str:
        """Add bytes; return the text that is now certain, "" after a stop string."""
        return self._decide(self._decoder.decode(data))

    def finish(self) -> str:
        """Return the text held back so far; call this after the last bytes."""
        text = self._decide(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _decide(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        begin = self._find(text)
        if begin is not None:
            self.stopped, self._held = True, ""
            return text[:begin]
        border = len(text) - self._count_undecided(text)
        self._held = text[border:]
        return text[:border]

    def _find(self, text: str) -> int | None:
        """Return the start of the stop string that ends first."""
        begins = ((text.find(each), len(each)) for each in self._stop)
        found = [(begin + length, begin) for begin, length in begins if begin >= 0]
        return min(found)[1] if found else None

    def _count_undecided(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if any(each.startswith(text[-length:]) for each in self._stop):
                return length
        return 0
