"""A chat with a model behind a server; what a `ChatSession` is for a model in this process."""

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gpt.data.messages import check_messages
from mlx_gpt.serve.client import Server, ServerError


@dataclass
class RemoteTurn:
    """A user's message and the answer."""

    text: str
    answer: str = ""


@dataclass(frozen=True)
class RemotePiece:
    """A piece of an answer."""

    text: str


class RemoteSession:
    """A conversation to continue, undo, save and load; the server reads all of it at each turn.

    `sampling` has the settings to send, None where the server's own apply. With a seed the n-th
    answer of the session has the seed + n. Whatever fails raises `ServerError` and leaves the
    conversation as it was before.
    """

    def __init__(
        self,
        server: Server,
        model: str,
        sampling: Mapping[str, float | None],
        max_tokens: int = 512,
        system: str | None = None,
    ):
        self.model, self.max_tokens, self.system = model, max_tokens, system
        self.turns: list[RemoteTurn] = []
        self.finish_reason: str | None = None  # of the last answer
        self._server, self._sampling = server, dict(sampling)
        self._answers = 0
        self._first, self._seconds, self._tokens, self._total = 0.0, 0.0, 0, 0

    @property
    def size(self) -> str:
        """The length of the conversation, in tokens as the server counted them."""
        tokens = f", {self._total} tokens" if self._total else ""
        return f"{len(self.turns)} turns{tokens}"

    @property
    def status(self) -> str:
        """The length of the conversation and the speed of the last answer, in two lines."""
        rate = (self._tokens - 1) / self._seconds if self._tokens > 1 and self._seconds else 0.0
        return (
            f"{self.size}, {self.model} at {self._server.url}\n"
            f"last answer: {self._tokens} tokens, the first after {self._first:.2f} s, "
            f"then {rate:.1f} tokens/s"
        )

    @property
    def warning(self) -> str | None:
        """None: the server refuses conversations that are too long."""
        return None

    @property
    def settings(self) -> dict[str, float | None]:
        """The settings that `change` changes; None is the server's."""
        return {**self._sampling, "max_tokens": self.max_tokens}

    def change(self, name: str, value: float | None) -> None:
        """Change a setting; the server checks its value."""
        if name != "max_tokens":
            self._sampling[name] = value
        elif value is None or value < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {value}")
        else:
            self.max_tokens = int(value)

    def ask(self, text: str) -> Generator[RemotePiece, None, None]:
        """Send a message; yield the answer. If closed early, the partial answer is kept."""
        self.turns.append(RemoteTurn(text))
        return self._answer(None)

    def retry(self) -> Generator[RemotePiece, None, None]:
        """Discard the last answer and yield another one."""
        before, self._last().answer = self._last().answer, ""
        return self._answer(before)

    def undo(self) -> str:
        """Remove the last turn; return its user message."""
        text = self._last().text
        self.turns.pop()
        return text

    def clear(self) -> None:
        """Remove all turns; keep the system message and the settings."""
        self.turns, self._total = [], 0

    def conversation(self) -> dict[str, Any]:
        """Return the conversation as `messages`."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.text})
            messages.append({"role": "assistant", "content": turn.answer})
        return {"messages": messages}

    def load(self, conversation: Mapping[str, Any]) -> None:
        """Continue a conversation of texts that ends with an answer; `ValueError` for others."""
        value = conversation.get("messages") if isinstance(conversation, Mapping) else None
        messages = check_messages(value)
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        pairs = list(zip(messages[::2], messages[1::2], strict=False))
        roles = [(user["role"], answer["role"]) for user, answer in pairs]
        if len(messages) % 2 or not pairs or set(roles) != {("user", "assistant")}:
            raise ValueError("the conversation must be turns of user and assistant, in this order")
        if not all(isinstance(each["content"], str) for each in messages):
            raise ValueError("the conversation has parts that only nanochat's models have")
        self.clear()
        self.system = system
        self.turns = [RemoteTurn(user["content"], answer["content"]) for user, answer in pairs]

    def _answer(self, before: str | None) -> Generator[RemotePiece, None, None]:
        """Yield the answer to the last turn, whose answer was `before`; None: it is new."""
        turn, begin = self.turns[-1], time.perf_counter()
        self.finish_reason, self._tokens, self._first, self._seconds = None, 0, 0.0, 0.0
        chunks = self._server.stream("/chat/completions", self._body())
        try:
            for chunk in chunks:
                text = self._read(chunk)
                if not text:
                    continue
                self._first = self._first or time.perf_counter() - begin
                self._seconds = time.perf_counter() - begin - self._first
                turn.answer += text
                yield RemotePiece(text)
        finally:
            chunks.close()
            if not turn.answer and self.finish_reason is None:  # it failed, or was interrupted
                if before is None:
                    self.turns.remove(turn)
                else:
                    turn.answer = before

    def _read(self, chunk: Mapping[str, Any]) -> str:
        """Return the text of a chunk; keep the numbers of tokens and the finish reason."""
        try:
            if usage := chunk.get("usage"):
                self._tokens, self._total = usage["completion_tokens"], usage["total_tokens"]
            if not (choices := chunk["choices"]):
                return ""
            self.finish_reason = choices[0].get("finish_reason") or self.finish_reason
            return choices[0]["delta"].get("content") or ""
        except (KeyError, TypeError, IndexError, AttributeError):
            raise ServerError(f"{self._server.url} streams what is no chat completion") from None

    def _body(self) -> dict[str, Any]:
        given = {name: value for name, value in self._sampling.items() if value is not None}
        if "seed" in given:
            given["seed"] = (int(given["seed"]) + self._answers) % 2**63
        self._answers += 1
        return {
            **given, "model": self.model, "messages": self.conversation()["messages"][:-1],
            "max_tokens": self.max_tokens, "stream_options": {"include_usage": True},
        }  # fmt: skip

    def _last(self) -> RemoteTurn:
        if not self.turns:
            raise ValueError("nothing has been said yet")
        return self.turns[-1]
