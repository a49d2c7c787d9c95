"""A request in progress: its answers, whole or as a stream, until the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_gpt.serve.answers import Form, Head, Progress, chunk, count_usage, whole_answer
from mlx_gpt.serve.errors import ApiError, from_refused, json_response, to_json
from mlx_gpt.serve.generation import Delta, Generate, Refused, Ticket
from mlx_gpt.serve.metrics import Metrics
from mlx_gpt.serve.scheduler import Scheduler

_KEEP_ALIVE_SECONDS = 15.0  # between comments while a prompt waits or is read
CLIENT_GONE = 499  # for the log: nobody reads this answer


class Disconnected(Exception):
    """The client has closed its connection."""


@dataclass
class Facts:
    """What the access log says of a request."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    first_seconds: float | None = None
    gone: bool = False
    prompt: str | None = None  # if prompts are logged
    answers: list[str] = field(default_factory=list)


class Running:
    """The answers to one request. Use it in `async with`, which cancels what is unfinished."""

    def __init__(
        self, scheduler: Scheduler, generates: Sequence[Generate], metrics: Metrics, facts: Facts
    ):
        self.answers = [Progress() for _ in generates]
        self._generates = generates
        self._scheduler, self._metrics, self._facts = scheduler, metrics, facts
        self._tickets: dict[int, Ticket] = {}
        self._deltas: asyncio.Queue[tuple[int, Delta] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._begin, self._last = time.perf_counter(), [0.0] * len(generates)
        self._watch: asyncio.Task[None] | None = None

    def submit(self, param: str, receive: Receive) -> None:
        """Queue all answers, or none; then watch for the client's leaving.

        Raises `ApiError` if the scheduler refuses; `param` is the field with the prompt.
        """
        try:
            for index, generate in enumerate(self._generates):
                deliver = partial(self._deliver, index)
                self._tickets[index] = self._scheduler.submit(generate, deliver)
        except (Refused, ValueError) as error:
            self.close()
            raise from_refused(error, param) from None
        self._watch = asyncio.create_task(_wait_until_gone(receive))
        self._watch.add_done_callback(lambda _: self._deltas.put_nowait(None))

    def close(self) -> None:
        """Cancel what is unfinished."""
        for ticket in self._tickets.values():
            self._scheduler.cancel(ticket)
        self._tickets.clear()
        if self._watch:
            self._watch.cancel()
        self._facts.tokens = sum(each.tokens for each in self.answers)
        self._facts.cached_tokens = sum(each.cached_tokens for each in self.answers)
        self._facts.answers = [each.text for each in self.answers]

    def _deliver(self, index: int, delta: Delta) -> None:
        """Take a step from the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody waits for it
            self._loop.call_soon_threadsafe(self._deltas.put_nowait, (index, delta))

    async def next(self, seconds: float | None = None) -> tuple[int, Delta] | None:
        """Return the next step of any answer, None when all are finished.

        Raises `TimeoutError` after `seconds`, `Disconnected` when the client has left, `ApiError`
        when an answer failed.
        """
        if not self._tickets:
            return None
        if self._deltas.empty():
            async with asyncio.timeout(seconds):
                item = await self._deltas.get()
        else:
            item = self._deltas.get_nowait()
        if item is None:
            self._facts.gone = True
            raise Disconnected
        index, delta = item
        if delta.finish_reason:
            del self._tickets[index]
        self._measure(index, delta)
        self.answers[index].add(delta)
        return item

    def _measure(self, index: int, delta: Delta) -> None:
        if delta.token is None:
            return
        now = time.perf_counter()
        if last := self._last[index]:
            self._metrics.between_tokens.observe(now - last)
        else:
            self._metrics.first_token.observe(now - self._begin)
            if self._facts.first_seconds is None:
                self._facts.first_seconds = now - self._begin
        self._last[index] = now

    def usage(self, n: int) -> dict[str, Any]:
        """Return the numbers of tokens of the answers, `n` to each prompt."""
        prompts = [len(each.prompt) for each in self._generates[::n]]
        return count_usage(prompts, self.answers, n)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def whole_response(running: Running, form: Form, head: Head, n: int) -> Response:
    """Wait for all answers, and return them in one body."""
    try:
        while await running.next():
            pass
    except Disconnected:
        return Response(status_code=CLIENT_GONE)
    finally:
        running.close()
    return json_response(whole_answer(form, head, running.answers, running.usage(n)))


async def stream_response(
    running: Running, form: Form, head: Head, n: int, include_usage: bool
) -> Response:
    """Return the answers as server-sent events.

    What fails before the first step is an ordinary error; after that, an event with the error ends
    the stream.
    """
    try:
        first = await running.next(_KEEP_ALIVE_SECONDS)
    except TimeoutError:
        first = None
    except Disconnected:
        running.close()
        return Response(status_code=CLIENT_GONE)
    except BaseException:
        running.close()
        raise
    return EventStream(running, _events(running, form, head, n, include_usage, first))


async def _events(
    running: Running,
    form: Form,
    head: Head,
    n: int,
    include_usage: bool,
    step: tuple[int, Delta] | None,
) -> AsyncGenerator[bytes, None]:
    def event(choice: dict[str, Any] | None, usage: dict[str, Any] | None = None) -> bytes:
        return b"data: " + to_json(chunk(form, head, choice, usage)) + b"\n\n"

    for index in range(len(running.answers)):
        if choice := form.begin(index):
            yield event(choice)
    try:
        while True:
            if step:
                index, delta = step
                for choice in form.pieces(index, delta):
                    yield event(choice)
                if delta.finish_reason:
                    yield event(form.end(index, running.answers[index]))
            try:
                step = await running.next(_KEEP_ALIVE_SECONDS)
            except TimeoutError:
                step = None
                yield b": keepalive\n\n"
                continue
            if step is None:
                break
    except ApiError as error:
        yield b"data: " + to_json(error.body) + b"\n\n"
        return
    if include_usage:
        yield event(None, running.usage(n))
    yield b"data: [DONE]\n\n"


class EventStream(Response):
    """A stream of events; whatever ends it also ends the request."""

    media_type = "text/event-stream"

    def __init__(self, running: Running, events: AsyncGenerator[bytes, None]):
        self.status_code, self.background = 200, None
        self._running, self._events = running, events
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the client leaves."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Disconnected:
            pass
        finally:
            await self._events.aclose()
            self._running.close()
