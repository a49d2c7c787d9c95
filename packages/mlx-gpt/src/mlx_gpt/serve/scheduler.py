"""The engine thread: requests wait in a queue, and their answers are delivered token by token."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Request
from mlx_gpt.serve.generation import (
    Delta,
    Draining,
    FinishReason,
    Generate,
    QueueFull,
    Stats,
    Ticket,
    TooLong,
    UnknownAdapter,
)

if TYPE_CHECKING:
    from mlx_gpt.tokenizer import AnyTokenizer

Deliver = Callable[[Delta], None]


@dataclass
class _Job:
    request: Generate
    deliver: Deliver
    ticket: Ticket
    deadline: float | None
    cancelled: bool = False


class Scheduler:
    """Answers requests with one engine, which is loaded and used in a thread of its own.

    `load` is called in that thread. `deliver` functions are called there too: they must return at
    once. All methods may be called from any thread.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        max_batch: int = 16,
        max_queue: int = 64,
        prefill_chunk: int = 256,
        prefix_cache_bytes: int = 1 << 30,
        adapters: Mapping[str, Path] | None = None,
        memory_limit: int | None = None,
    ):
        self.tokenizer: AnyTokenizer
        self.context_length = 0
        self.adapters = tuple(adapters or ())
        self.failure: str | None = None
        self._load, self._max_queue = load, max_queue
        self._lock = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._next, self._draining, self._closed = 0, False, False
        self._finished: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._loaded = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mlx-gpt-engine", daemon=True)

    def start(self) -> None:
        """Load the model; raise what loading raised."""
        self._thread.start()
        self._loaded.wait()
        if self._error is not None:
            raise self._error

    @property
    def alive(self) -> bool:
        """Whether requests are answered; if not, `failure` may say why."""
        return self._thread.is_alive() and self.failure is None

    def submit(self, request: Generate, deliver: Deliver) -> Ticket:
        """Queue a request.

        Raises `QueueFull`, `TooLong`, `Draining`, `NotEnoughMemory` or `UnknownAdapter`, all
        `Refused`, and `ValueError` for ids that the tokenizer does not have.
        """
        if request.adapter is not None and request.adapter not in self.adapters:
            raise UnknownAdapter(request.adapter, self.adapters)
        if len(request.prompt) >= self.context_length:
            raise TooLong(len(request.prompt), self.context_length)
        size = self.tokenizer.vocab_size
        for what, ids in (("prompt", request.prompt), ("logit_bias", request.sampling.logit_bias)):
            unknown = next((each for each in ids if not 0 <= each < size), None)
            if unknown is not None:
                raise ValueError(f"the {what} has id {unknown}, but there are {size} tokens")
        with self._lock:
            if self._draining or self._closed or not self.alive:
                raise Draining(self.failure or "the server is shutting down")
            if len(self._queue) >= self._max_queue:
                raise QueueFull(len(self._queue), 1.0)
            self._next += 1
            deadline = time.monotonic() + request.seconds if request.seconds else None
            job = _Job(request, deliver, Ticket(self._next), deadline)
            self._queue.append(job)
            self._lock.notify_all()
            return job.ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request within one step; unknown and finished ones are left alone."""
        with self._lock:
            for job in (*self._queue, *self._running.values()):
                if job.ticket == ticket:
                    job.cancelled = True
            self._lock.notify_all()

    def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for the others; return whether all ended in this time."""
        with self._lock:
            self._draining = True
            return self._lock.wait_for(lambda: not self._queue and not self._running, seconds)

    def close(self) -> None:
        """Cancel all requests and end the thread."""
        with self._lock:
            self._draining = self._closed = True
            self._lock.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def stats(self) -> Stats:
        """Return what the scheduler does and has done."""
        with self._lock:
            return Stats(
                active=len(self._running), queued=len(self._queue),
                prompt_tokens=self._counts["prompt"],
                generated_tokens=self._counts["generated"], finished=dict(self._finished),
                steps=self._counts["steps"],
            )  # fmt: skip

    def _run(self) -> None:
        try:
            engine = self._load()
            self.tokenizer = engine.tokenizer
            self.context_length = engine.model.config.sequence_len
        except BaseException as error:
            self._error = error
            return
        finally:
            self._loaded.set()
        while (job := self._take()) is not None:
            try:
                self._answer(engine, job)
            # Whatever one request causes must not end the others.
            except Exception as error:
                self._end(job, "error", error=f"{type(error).__name__}: {error}")
            with self._lock:
                del self._running[job.ticket.number]
                self._lock.notify_all()

    def _take(self) -> _Job | None:
        with self._lock:
            self._lock.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return None
            job = self._queue.popleft()
            self._running[job.ticket.number] = job
            self._counts["prompt"] += len(job.request.prompt)
            return job

    def _answer(self, engine: Engine, job: _Job) -> None:
        request = job.request
        if self._expired(job) is None:
            room = self.context_length - len(request.prompt)
            generation = engine.start([
                Request(request.prompt, min(request.max_tokens, room), request.sampling,
                        request.stop)
            ])  # fmt: skip
            while generation.active and self._expired(job) is None:
                for piece in generation.step():
                    self._counts["steps"] += 1
                    if piece.token is not None:
                        self._counts["generated"] += 1
                    if piece.finish_reason:
                        self._end(job, piece.finish_reason, piece.token, piece.text)
                        return
                    job.deliver(Delta(piece.token, piece.text, prompt_tokens=len(request.prompt)))
        self._end(job, self._expired(job) or "cancelled")

    def _expired(self, job: _Job) -> FinishReason | None:
        if job.cancelled or self._closed:
            return "cancelled"
        late = job.deadline is not None and time.monotonic() > job.deadline
        return "timeout" if late else None

    def _end(
        self,
        job: _Job,
        reason: FinishReason,
        token: int | None = None,
        text: str = "",
        error: str | None = None,
    ) -> None:
        self._finished[reason] += 1
        job.deliver(Delta(token, text, reason, prompt_tokens=len(job.request.prompt), error=error))
