"""A request in progress: its tokens become text, which is delivered at once."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mlx_gpt.engine.draws import TokenLog
from mlx_gpt.engine.generation import Row
from mlx_gpt.serve.generation import Delta, FinishReason, Generate, Ticket

logger = logging.getLogger(__name__)

Deliver = Callable[[Delta], None]


class Answer:
    """A member of the batch, as `draws.Member`; an exception of its own ends it alone.

    `row` makes the text. All but `cancelled` is for the engine thread.
    """

    def __init__(
        self,
        ticket: Ticket,
        given: Generate,
        deliver: Deliver,
        row: Row,
        counts: Counter[str],
        vocab_size: int,
    ):
        self.ticket, self.given, self._counts = ticket, given, counts
        self.request, self.adapter = row.request, given.adapter
        self.top = given.top_log_probabilities
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self.cached_tokens = 0
        self.begin = time.monotonic()
        self._deliver, self._row, self._vocab_size = deliver, row, vocab_size

    @property
    def tokens(self) -> list[int]:
        """The tokens after the prompt, the end token included."""
        return self._row.tokens

    @property
    def remaining(self) -> int:
        """Number of tokens that may still follow."""
        return self._row.remaining

    @property
    def size(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.request.prompt) + self.request.max_tokens

    @property
    def is_masked(self) -> bool:
        """Whether a grammar says which tokens may follow."""
        return self.given.grammar is not None

    @property
    def expired(self) -> FinishReason | None:
        """The reason to end now, None to go on."""
        if self.cancelled:
            return "cancelled"
        seconds = self.given.seconds
        late = seconds is not None and time.monotonic() - self.begin >= seconds
        return "timeout" if late else None

    def next_forced(self) -> int | None:
        """Return the token to force next, None if it is sampled."""
        return self._row.next_forced()

    def mask(self) -> np.ndarray | None:
        """Return which tokens may follow; None: all."""
        if self.given.grammar is None:
            return None
        with ends_on_error([self]):
            allowed = self.given.grammar.allowed()
            if allowed is None:
                return None
            if allowed.shape != (self._vocab_size,):
                raise ValueError(
                    f"the grammar's mask has the shape {allowed.shape}, but there are "
                    f"{self._vocab_size} tokens"
                )
            if not allowed.any():
                raise ValueError("the grammar allows no token here")
            return allowed.astype(bool, copy=False)
        return None

    def accept(self, token: int, log: TokenLog | None) -> None:
        """Take the next token and deliver its text."""
        with ends_on_error([self]):
            piece = self._row.accept(token)
            text, reason, grammar = piece.text, piece.finish_reason, self.given.grammar
            if grammar is not None and piece.token is not None:
                grammar.accept(token)
                if reason is None and grammar.ended:
                    last = self._row.finish("stop")
                    text, reason = text + last.text, last.finish_reason
            log = None if piece.token is None or piece.forced else log
            self._send(piece.token, text, reason, log)

    def finish(self, reason: FinishReason, error: str | None = None) -> None:
        """End the answer; deliver the text held back so far."""
        if self.finish_reason is None:
            text = self._row.finish("cancelled").text if self._row.finish_reason is None else ""
            self._send(None, text, reason, error=error)

    def fail(self, error: Exception) -> None:
        """End the answer with an error."""
        message = f"{type(error).__name__}: {error}"
        # If it is `deliver` that fails, nobody can be told.
        with contextlib.suppress(Exception):
            self.finish("error", message)
        self.finish_reason = self.finish_reason or "error"

    def _send(
        self,
        token: int | None,
        text: str,
        reason: FinishReason | None,
        log: TokenLog | None = None,
        error: str | None = None,
    ) -> None:
        value, top = (log.log_probability, log.top) if log else (None, ())
        count = len(self.request.prompt)
        self._counts["generated"] += token is not None
        self._deliver(Delta(token, text, reason, value, top, count, self.cached_tokens, error))
        self.finish_reason = reason


@contextlib.contextmanager
def ends_on_error(answers: Sequence[Answer]) -> Iterator[None]:
    """Let an exception in the block end these answers, and nothing else."""
    try:
        yield
    # Whatever it is: the other requests and those to come must go on. `KeyboardInterrupt` and the
    # like pass.
    except Exception as error:
        logger.error("%d requests failed: %s: %s", len(answers), type(error).__name__, error)
        logger.debug("the exception", exc_info=error)
        for each in answers:
            if each.finish_reason is None:
                each.fail(error)
