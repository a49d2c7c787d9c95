"""Read a model's answer piece by piece: the text, and the calls of tools in it, as OpenAI's deltas.

Arguments are passed on as they are written. What turns out to be no call stays text, and a call
that is cut stays what it was so far, so that nothing of an answer is lost.
"""

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes calls: JSON objects with a name and arguments, between two marks.

    Without `begin` a call is an answer that begins as one, after `prefix` if the model writes it.
    Between objects are `separators`. `id_length` is for chat templates that require one.
    """

    name: Literal["hermes", "mistral", "llama"]
    begin: str
    end: str
    separators: str
    arguments: str = "arguments"
    prefix: str = ""
    id_length: int = 0


FORMATS = {
    each.name: each
    for each in (
        ToolFormat("hermes", "<tool_call>", "</tool_call>", " \t\r\n"),
        ToolFormat("mistral", "[TOOL_CALLS]", "]", " \t\r\n[,", id_length=9),
        ToolFormat("llama", "", "", " \t\r\n;", "parameters", prefix="<|python_tag|>"),
    )
}


@dataclass(frozen=True)
class CallDelta:
    """A part of the call number `index`: first its id and name, then pieces of its arguments."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None

    def row(self) -> dict[str, Any]:
        """Return an entry of OpenAI's `tool_calls` in a chunk of a stream."""
        if self.id is None:
            return {"index": self.index, "function": {"arguments": self.arguments}}
        function = {"name": self.name, "arguments": self.arguments}
        return {"index": self.index, "id": self.id, "type": "function", "function": function}


def join_calls(deltas: Sequence[CallDelta]) -> list[dict[str, Any]]:
    """Return OpenAI's `tool_calls` of a whole message."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        if delta.id is not None:
            calls[delta.index] = delta.row()
            del calls[delta.index]["index"]
        else:
            calls[delta.index]["function"]["arguments"] += delta.arguments
    return list(calls.values())


class ToolCallParser:
    """Reads one answer: `add` its texts, then `finish`; both return texts and `CallDelta`s.

    `names` are the tools that the model may call: where no mark tells a call from a JSON answer,
    only their calls are calls. White space before a call is dropped.
    """

    def __init__(self, format: ToolFormat, names: Sequence[str]):
        self.calls = 0
        self._format, self._names = format, frozenset(names)
        self._text = ""  # not decided yet
        self._head = re.compile(
            r'\{\s*"name"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*'
            rf'"{format.arguments}"\s*:\s*(?=\{{)'
        )
        self._step = self._read_text if format.begin else self._read_begin
        self._value = _Value()

    def finish_reason(self, reason: str) -> str:
        """Return OpenAI's reason: `tool_calls` if the model stopped after calls."""
        return "tool_calls" if self.calls and reason == "stop" else reason

    def add(self, text: str) -> list[str | CallDelta]:
        """Read a piece of the answer; return what is certain now."""
        self._text += text
        return list(self._read())

    def finish(self) -> list[str | CallDelta]:
        """Return what was held back."""
        text, self._text = self._text, ""
        if self._step in (self._read_arguments, self._read_rest):
            return []  # of a call that was cut, or after its last argument
        if self._step == self._read_object:
            text = self._opened + text
        nothing = not text.strip(self._format.separators)
        return [] if not text or (nothing and self.calls) else [text]

    def _read(self) -> Iterator[str | CallDelta]:
        while True:
            before = (self._text, self._step)
            yield from self._step()
            if (self._text, self._step) == before:
                return

    def _read_text(self) -> Iterator[str]:
        """Pass text on up to the mark that begins a call, or what may become it."""
        begin = self._text.find(self._format.begin)
        if begin >= 0:
            text, self._text = self._text[:begin].rstrip(), self._text[begin:]
            self._open(self._format.begin)
        else:
            kept = len(self._text) - _overlap(self._text, self._format.begin)
            kept = len(self._text[:kept].rstrip())
            text, self._text = self._text[:kept], self._text[kept:]
        if text:
            yield text

    def _read_begin(self) -> Iterator[str]:
        """Decide whether an answer without marks begins as a call."""
        text, prefix = self._text.lstrip(), self._format.prefix
        if text.startswith(prefix):
            self._text = text
            self._open(prefix)
        elif text.startswith("{"):
            self._open("")
        elif text and not prefix.startswith(text):
            self._step = self._pass
        yield from ()

    def _pass(self) -> Iterator[str]:
        text, self._text = self._text, ""
        if text:
            yield text

    def _open(self, mark: str) -> None:
        self._opened, self._text = mark, self._text.removeprefix(mark)
        self._step = self._read_object

    def _read_object(self) -> Iterator[str | CallDelta]:
        """Find the next call, or the mark that ends calls."""
        body = self._text.lstrip(self._format.separators)
        if self._format.end and body.startswith(self._format.end):
            self._text = body[len(self._format.end) :]
            self._step = self._read_text
        elif found := self._head.match(body):
            call = self._parse(found[0] + "{}}")
            if call is None:
                yield from self._refuse()
                return
            yield replace(call, arguments="")
            self._text, self._step, self._value = (
                body[found.end() :],
                self._read_arguments,
                _Value(),
            )
        elif body.startswith("{"):
            end = _Value().end(body)
            if end is not None:
                call = self._parse(body[:end])
                if call is None:
                    yield from self._refuse()
                    return
                yield call
                self._text, self._opened = body[end:], ""
        elif body and not self._format.end.startswith(body):
            yield from self._refuse()

    def _read_arguments(self) -> Iterator[CallDelta]:
        end = self._value.end(self._text)
        text, self._text = self._text[:end], "" if end is None else self._text[end:]
        if text:
            yield CallDelta(self.calls - 1, text)
        if end is not None:
            self._step, self._value = self._read_rest, _Value(depth=1)

    def _read_rest(self) -> Iterator[CallDelta]:
        """Skip what follows the arguments in the object, as an id."""
        end = self._value.end(self._text)
        self._text = "" if end is None else self._text[end:]
        if end is not None:
            self._step, self._opened = self._read_object, ""
        yield from ()

    def _refuse(self) -> Iterator[str]:
        """What follows is no call: go on with it as text."""
        self._step = self._read_text if self._format.begin else self._pass
        if self._opened:
            yield self._opened

    def _parse(self, text: str) -> CallDelta | None:
        """Return the call in an object with its keys in another order."""
        try:
            found = json.loads(text)
            name, arguments = found["name"], found[self._format.arguments]
            # Some models write their arguments as text that is JSON.
            values = json.loads(arguments) if isinstance(arguments, str) else arguments
        except (ValueError, KeyError, RecursionError):
            return None
        if not isinstance(name, str) or not isinstance(values, dict) or not self._is_known(name):
            return None
        return self._call(name, json.dumps(values, ensure_ascii=False))

    def _is_known(self, name: str) -> bool:
        return bool(self._format.begin) or name in self._names

    def _call(self, name: str, arguments: str) -> CallDelta:
        self.calls += 1
        length = self._format.id_length
        identity = secrets.token_hex(length)[:length] if length else f"call_{secrets.token_hex(12)}"
        return CallDelta(self.calls - 1, arguments, identity, name)


class _Value:
    """Finds the end of a JSON object or array that comes in pieces."""

    def __init__(self, depth: int = 0):
        self._depth = depth
        self._in_string = self._escaped = False

    def end(self, text: str) -> int | None:
        """Read more of the value; return where in this text it ends, None if later."""
        for place, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return place + 1
        return None


def _overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    lengths = range(min(len(text), len(mark) - 1), 0, -1)
    return next((each for each in lengths if mark.startswith(text[-each:])), 0)
