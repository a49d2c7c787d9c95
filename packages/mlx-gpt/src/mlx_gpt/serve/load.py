"""A load test of an OpenAI-compatible server: requests by clients that wait for their answer, or at
random times, and what their times were.

A time between tokens is that between two pieces of an answer with text: servers may send several
tokens in a piece, and none for tokens that end inside a character.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_gpt.serve.client import Server, ServerError

Body = Mapping[str, Any]

_WORDS = (
    "the of and to in is that it was for on are with as his they be at one have this from or had "
    "by not but what all were when we there can an your which their said if do will each about how "
    "up out them then she many some so these would other into has more her two like him see time"
)
_PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}


@dataclass
class Result:
    """One request. Times are in seconds, `begin` from the begin of the test.

    `status` is 200, that of a refusal, or 0 where there was no answer; `gaps` are the times between
    pieces of the answer.
    """

    begin: float
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    seconds: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    status: int = 200
    error: str | None = None


@dataclass(frozen=True)
class LoadResult:
    """All requests of a test, and how long it took."""

    results: Sequence[Result]
    seconds: float

    @property
    def failed(self) -> list[Result]:
        """Requests without a complete answer."""
        return [each for each in self.results if each.error is not None]

    def summary(self) -> dict[str, Any]:
        """Return the numbers for `--json`: rates, percentiles in seconds, errors by status."""
        good = [each for each in self.results if each.error is None]
        tokens, prompts = (sum(getattr(each, name) for each in good)
                           for name in ("tokens", "prompt_tokens"))  # fmt: skip
        return {
            "requests": len(self.results), "failed": len(self.failed), "seconds": self.seconds,
            "requests_per_second": len(good) / self.seconds,
            "tokens_per_second": tokens / self.seconds, "tokens": tokens,
            "prompt_tokens_per_second": prompts / self.seconds, "prompt_tokens": prompts,
            "first_token": percentiles([each.first for each in good if each.first is not None]),
            "between_tokens": percentiles([gap for each in good for gap in each.gaps]),
            "request": percentiles([each.seconds for each in good]),
            "errors": dict(Counter(str(each.status or "connection") for each in self.failed)),
        }  # fmt: skip

    def table(self) -> str:
        """Return the numbers as text."""
        found = self.summary()
        lines = [f"{'':18}" + "".join(f"{name:>9}" for name in _PERCENTILES)]
        for name, scale, unit in (("first_token", 1e3, "ms"), ("between_tokens", 1e3, "ms"),
                                  ("request", 1, "s")):  # fmt: skip
            values = "".join(f"{value * scale:9.1f}" for value in found[name].values())
            lines.append(f"{name.replace('_', ' ')}, {unit}".ljust(18) + (values or "        -"))
        lines.append(
            f"{found['requests'] - found['failed']} of {found['requests']} requests in "
            f"{self.seconds:.1f} s: {found['requests_per_second']:.2f} requests/s, "
            f"{found['tokens_per_second']:.1f} tokens/s of answers, "
            f"{found['prompt_tokens_per_second']:.1f} of prompts"
        )
        for status, count in found["errors"].items():
            text = next(e.error for e in self.failed if str(e.status or "connection") == status)
            lines.append(f"error {status}, {count} times: {text}")
        return "\n".join(lines)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of a table, {} without values."""
    if not values:
        return {}
    ordered = sorted(values)
    return {name: ordered[max(0, -(-len(ordered) * share // 100) - 1)]
            for name, share in _PERCENTILES.items()}  # fmt: skip


def run_load(
    server: Server,
    path: str,
    bodies: Sequence[Body],
    clients: int = 1,
    rate: float | None = None,
    seed: int = 0,
    finished: Callable[[Result], object] = lambda result: None,
) -> LoadResult:
    """Send all requests to `path`, as /chat/completions; return their times.

    `clients` send theirs one after another. With a `rate` each is sent at a random time instead, on
    average so many a second, as of clients who know nothing of each other (a Poisson process).
    `finished` is called with each result.
    """
    results: list[Result] = []
    begin = time.perf_counter()

    def send(body: Body) -> None:
        result = measure(server, path, body, begin)
        results.append(result)
        finished(result)

    if rate is None:
        left = iter(bodies)
        lock = threading.Lock()

        def send_next() -> None:
            while True:
                with lock:
                    body = next(left, None)
                if body is None:
                    return
                send(body)

        threads = [threading.Thread(target=send_next) for _ in range(min(clients, len(bodies)))]
        for each in threads:
            each.start()
    else:
        threads = []
        for at, body in zip(_arrivals(rate, seed), bodies, strict=False):
            time.sleep(max(0.0, begin + at - time.perf_counter()))
            threads.append(threading.Thread(target=send, args=(body,)))
            threads[-1].start()
    for each in threads:
        each.join()
    results.sort(key=lambda each: each.begin)
    return LoadResult(results, time.perf_counter() - begin)


def measure(server: Server, path: str, body: Body, origin: float) -> Result:
    """Send one request and read its stream; `origin` is the begin of the test."""
    begin = time.perf_counter()
    result, last = Result(begin - origin), begin
    pieces = 0
    try:
        for chunk in server.stream(path, {**body, "stream_options": {"include_usage": True}}):
            now = time.perf_counter()
            if _has_text(chunk):
                pieces += 1
                if result.first is None:
                    result.first = now - begin
                else:
                    result.gaps.append(now - last)
                last = now
            if usage := chunk.get("usage"):
                result.prompt_tokens = usage.get("prompt_tokens", 0)
                result.tokens = usage.get("completion_tokens", 0)
    except ServerError as error:
        result.status, result.error = error.status, str(error)
    result.tokens = result.tokens or pieces
    result.seconds = time.perf_counter() - begin
    return result


def read_bodies(path: Path, is_chat: bool, max_tokens: int, seed: int) -> list[Body]:
    """Return the requests in a file of JSON lines; `ValueError` with the line of a wrong one.

    A row has a `prompt`, `messages`, or a number of `words` to make up; `max_tokens` if others.
    """
    bodies = []
    drawn = random.Random(seed)
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            limit = row.get("max_tokens", max_tokens)
            content = row.get("messages") or row.get("prompt") or words(int(row["words"]), drawn)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{path}:{number}: expected an object with prompt, messages or words, and "
                "max_tokens if it is to differ"
            ) from None
        bodies.append(make_body(content, is_chat, limit))
    if not bodies:
        raise ValueError(f"{path} has no request")
    return bodies


def make_bodies(
    count: int, lengths: Sequence[int], limits: Sequence[int], is_chat: bool, seed: int
) -> list[Body]:
    """Return requests of made-up words, each with one of the lengths and limits of answers."""
    drawn = random.Random(seed)
    return [make_body(words(drawn.choice(lengths), drawn), is_chat, drawn.choice(limits))
            for _ in range(count)]  # fmt: skip


def make_body(content: str | list[Any], is_chat: bool, max_tokens: int) -> Body:
    """Return a request for an answer to a prompt."""
    if not is_chat:
        return {"prompt": content, "max_tokens": max_tokens}
    if isinstance(content, str):
        content = [{"role": "user", "content": content}]
    return {"messages": content, "max_tokens": max_tokens}


def words(count: int, drawn: random.Random) -> str:
    """Return so many words; prompts differ from the first one on, so that no cache knows them."""
    return " ".join(drawn.choices(_WORDS.split(), k=count))


def _arrivals(rate: float, seed: int) -> Iterator[float]:
    drawn, at = random.Random(seed), 0.0
    while True:
        yield at
        at += drawn.expovariate(rate)


def _has_text(chunk: Mapping[str, Any]) -> bool:
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or choice
        if any(delta.get(key) for key in ("content", "text", "reasoning", "tool_calls")):
            return True
    return False
