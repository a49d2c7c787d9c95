"""The bodies of answers, and the chunks of streams, in OpenAI's form."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_gpt.serve.errors import ApiError
from mlx_gpt.serve.generation import Delta
from mlx_gpt.serve.tool_parser import CallDelta, ToolCallParser, join_calls
from mlx_gpt.tokenizer import AnyTokenizer

_LEAST_LOG_PROBABILITY = -9999.0  # OpenAI's for what JSON cannot hold


@dataclass(frozen=True)
class Head:
    """What the chunks of a stream have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str


@dataclass
class Progress:
    """One answer so far."""

    texts: list[str] = field(default_factory=list)
    log_probabilities: list[Delta] = field(default_factory=list)
    tokens: int = 0
    cached_tokens: int = 0
    finish_reason: Literal["stop", "length"] | None = None

    def add(self, delta: Delta) -> None:
        """Take the next step; raise `ApiError` if the answer failed."""
        self.tokens += delta.token is not None
        self.cached_tokens = delta.cached_tokens
        self.texts.append(delta.text)
        if delta.log_probability is not None:
            self.log_probabilities.append(delta)
        reason = delta.finish_reason
        if reason == "stop" or reason == "length":
            self.finish_reason = reason
        elif reason == "timeout" and self.tokens:
            self.finish_reason = "length"  # OpenAI's clients know no reason for it
        elif reason:
            raise _failure(reason)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)


def _failure(reason: str) -> ApiError:
    if reason == "timeout":
        text = "the answer did not begin in the time that the server allows"
        return ApiError(503, text, code="timeout", headers={"retry-after": "5"})
    if reason == "cancelled":
        text = "the server was stopped before the answer was complete"
        return ApiError(503, text, code="unavailable", headers={"retry-after": "5"})
    return ApiError(500, "the engine failed on this request; the server's log has the reason")


class ChatForm:
    """Chat completions; `make_parser` reads calls of tools in an answer, None if there are none."""

    whole, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(
        self,
        tokenizer: AnyTokenizer,
        log_probabilities: bool,
        make_parser: Callable[[], ToolCallParser | None],
    ):
        self._tokenizer, self._log_probabilities = tokenizer, log_probabilities
        self._make_parser = make_parser
        self._parsers: dict[int, ToolCallParser] = {}  # of streams

    def choice(self, index: int, progress: Progress) -> dict[str, Any]:
        """Return a complete choice."""
        message: dict[str, Any] = {"role": "assistant", "content": progress.text, "refusal": None}
        reason: str | None = progress.finish_reason
        if reason and (parser := self._make_parser()):
            parts = [*parser.add(progress.text), *parser.finish()]
            text = "".join(each for each in parts if isinstance(each, str))
            calls = join_calls([each for each in parts if not isinstance(each, str)])
            reason = parser.finish_reason(reason)
            message["content"] = text or (None if calls else "")
            message |= {"tool_calls": calls} if calls else {}
        return {"index": index, "message": message, "finish_reason": reason,
                "logprobs": self._logprobs(progress.log_probabilities)}  # fmt: skip

    def begin(self, index: int) -> dict[str, Any]:
        """Return the first chunk's choice."""
        if parser := self._make_parser():
            self._parsers[index] = parser
        return self._piece(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, delta: Delta) -> Iterator[dict[str, Any]]:
        """Yield the choices of a step."""
        parts: list[str | CallDelta] = [delta.text] if delta.text else []
        if parser := self._parsers.get(index):
            parts = parser.add(delta.text)
            parts += parser.finish() if delta.finish_reason else []
        logprobs = None
        if self._log_probabilities and delta.log_probability is not None:
            logprobs, parts = self._logprobs([delta]), parts or [""]
        for part in parts:
            shown = {"content": part} if isinstance(part, str) else {"tool_calls": [part.row()]}
            yield self._piece(index, shown, logprobs)
            logprobs = None  # once a step

    def end(self, index: int, progress: Progress) -> dict[str, Any]:
        """Return the last chunk's choice."""
        reason: str | None = progress.finish_reason
        if reason and (parser := self._parsers.get(index)):
            reason = parser.finish_reason(reason)
        return self._piece(index, {}) | {"finish_reason": reason}

    def _piece(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "finish_reason": None, "logprobs": logprobs}

    def _logprobs(self, deltas: Sequence[Delta]) -> dict[str, Any] | None:
        if not self._log_probabilities:
            return None
        content = [
            self._token(delta.token, delta.log_probability)
            | {"top_logprobs": [self._token(*each) for each in delta.top]}
            for delta in deltas
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int | None, log_probability: float | None) -> dict[str, Any]:
        data = _bytes(self._tokenizer, token)
        return {"token": data.decode("utf-8", "replace"), "bytes": list(data),
                "logprob": _finite(log_probability)}  # fmt: skip


class TextForm:
    """Completions; `echo` has the texts that precede the choices."""

    whole, chunk, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, tokenizer: AnyTokenizer, top: int | None, echo: Sequence[str]):
        self._tokenizer, self._top, self._echo = tokenizer, top, echo
        self._lengths: dict[int, _Length] = {}  # of what streams have sent

    def choice(self, index: int, progress: Progress) -> dict[str, Any]:
        """Return a complete choice."""
        text = self._before(index) + progress.text
        logprobs = self._logprobs(progress.log_probabilities, _Length())
        return self._piece(index, text, logprobs) | {"finish_reason": progress.finish_reason}

    def begin(self, index: int) -> dict[str, Any] | None:
        """Return the choice before the first step, None without an echo."""
        before = self._before(index)
        return self._piece(index, before, None) if before else None

    def pieces(self, index: int, delta: Delta) -> Iterator[dict[str, Any]]:
        """Yield the choice of a step, if it shows anything."""
        given = [delta] if delta.log_probability is not None else []
        if delta.text or (given and self._top is not None):
            length = self._lengths.setdefault(index, _Length())
            yield self._piece(index, delta.text, self._logprobs(given, length))

    def end(self, index: int, progress: Progress) -> dict[str, Any]:
        """Return the last chunk's choice."""
        return self._piece(index, "", None) | {"finish_reason": progress.finish_reason}

    def _before(self, index: int) -> str:
        return self._echo[index] if self._echo else ""

    def _piece(self, index: int, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": None, "logprobs": logprobs}

    def _logprobs(self, deltas: Sequence[Delta], length: _Length) -> dict[str, Any] | None:
        if self._top is None:
            return None
        tops = [{self._name(token): _finite(log) for token, log in each.top} for each in deltas]
        return {
            "tokens": [self._name(each.token) for each in deltas],
            "token_logprobs": [_finite(each.log_probability) for each in deltas],
            "top_logprobs": tops if self._top else None,
            "text_offset": [length.add(_bytes(self._tokenizer, each.token)) for each in deltas],
        }

    def _name(self, token: int | None) -> str:
        data = _bytes(self._tokenizer, token)
        try:
            return data.decode()
        except UnicodeDecodeError:  # two parts of characters must not have one name
            return "bytes:" + "".join(f"\\x{each:02x}" for each in data)


class _Length:
    """Counts the characters of tokens, of which some are parts of characters."""

    def __init__(self) -> None:
        self._characters, self._decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> int:
        """Add a token; return the characters before it."""
        before = self._characters
        self._characters += len(self._decoder.decode(data))
        return before


Form = ChatForm | TextForm


def whole_answer(
    form: Form, head: Head, answers: Sequence[Progress], usage: dict[str, Any]
) -> dict[str, Any]:
    """Return the body of an answer that is not streamed."""
    choices = [form.choice(index, each) for index, each in enumerate(answers)]
    return {"id": head.id, "object": form.whole, "created": head.created, "model": head.model,
            "choices": choices, "usage": usage,
            "system_fingerprint": head.system_fingerprint}  # fmt: skip


def chunk(
    form: Form, head: Head, choice: dict[str, Any] | None, usage: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a chunk of a stream: of one choice, or of none with the usage."""
    return {"id": head.id, "object": form.chunk, "created": head.created, "model": head.model,
            "choices": [choice] if choice else [], "usage": usage,
            "system_fingerprint": head.system_fingerprint}  # fmt: skip


def count_usage(prompts: Sequence[int], answers: Sequence[Progress], n: int) -> dict[str, Any]:
    """Return the numbers of tokens; a prompt counts once, however many answers it has."""
    read, written = sum(prompts), sum(each.tokens for each in answers)
    cached = sum(each.cached_tokens for each in answers[::n])
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached}}  # fmt: skip


def _bytes(tokenizer: AnyTokenizer, token: int | None) -> bytes:
    try:
        return b"" if token is None else tokenizer.decode_bytes([token])
    except ValueError:  # the model has more ids than the tokenizer
        return b""


def _finite(log_probability: float | None) -> float:
    return max(_LEAST_LOG_PROBABILITY, log_probability or 0.0)
