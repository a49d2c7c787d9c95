"""One request being answered: its tokens, its text, its tools."""

from collections import deque
from typing import TYPE_CHECKING

from mlx_gpt.engine.requests import Completion, FinishReason, Piece, Request
from mlx_gpt.engine.text import TextStream
from mlx_gpt.engine.tools import ToolUse

if TYPE_CHECKING:
    from mlx_gpt.tokenizer import Tokenizer


class Row:
    """A row of the batch; `accept` takes its tokens one by one."""

    def __init__(
        self,
        index: int,
        request: Request,
        tokenizer: "Tokenizer",
        tools: ToolUse | None,
        end_ids: frozenset[int],
    ):
        self.index = index
        self.request = request
        self.cancelled = False
        self.finish_reason: FinishReason | None = None
        self.tokens: list[int] = []  # all that followed the prompt, the one that ended it too
        self._tokenizer = tokenizer
        self._tools = tools
        self._end_ids = end_ids
        self._stream = TextStream(request.stop)
        self._text: list[str] = []
        self._mask: list[int] = []
        self._log_probabilities: list[float] = []
        self._queue: deque[int] = deque()  # tokens that must come next
        self._forced = False  # whether the coming token was forced
        self._ended = False  # by one of the end ids

    @property
    def remaining(self) -> int:
        """How many tokens may still come."""
        return self.request.max_tokens - len(self.tokens)

    def next_forced(self) -> int | None:
        """Return the token that must come next, or None if it is to be drawn."""
        self._forced = bool(self._queue)
        return self._queue.popleft() if self._queue else None

    def accept(self, token: int, log_probability: float | None = None) -> Piece:
        """Take the next token."""
        self.tokens.append(token)
        forced = self._forced
        if not forced and token in self._end_ids:
            self._ended = True
            return self.finish("stop")
        self._mask.append(0 if forced else 1)
        if log_probability is not None:
            self._log_probabilities.append(0.0 if forced else log_probability)
        if self._tools and not forced:
            self._queue.extend(self._tools.see(token))
        text = self._stream.add(self._tokenizer.decode_bytes([token]))
        reason = "stop" if self._stream.stopped else None if self.remaining else "length"
        if reason:
            return self.finish(reason, token, text, forced)
        self._text.append(text)
        return Piece(self.index, token, text, forced)

    def finish(
        self, reason: FinishReason, token: int | None = None, text: str = "", forced: bool = False
    ) -> Piece:
        """End the row; return the last piece, with the text that was held back."""
        text += self._stream.finish()
        self._text.append(text)
        self.finish_reason = "stop" if self._stream.stopped else reason
        return Piece(self.index, token, text, forced, self.finish_reason)

    def completion(self) -> Completion:
        """Return the answer as far as it got."""
        ids = self.tokens[:-1] if self._ended else list(self.tokens)
        wanted = self.request.log_probabilities
        return Completion(
            ids,
            list(self._mask),
            "".join(self._text),
            self.finish_reason or "cancelled",
            list(self._log_probabilities) if wanted else None,
        )
