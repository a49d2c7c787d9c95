"""The engine thread: requests wait in a queue, and their answers are delivered token by token."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Request
from mlx_gpt.serve.answer import Answer, Deliver, ends_on_error
from mlx_gpt.serve.generation import (
    Draining,
    Generate,
    NotEnoughMemory,
    QueueFull,
    Stats,
    Ticket,
    TooLong,
    UnknownAdapter,
)
from mlx_gpt.serve.loop import EngineLoop

if TYPE_CHECKING:
    from mlx_gpt.tokenizer import AnyTokenizer

logger = logging.getLogger(__name__)

_LONGEST_RETRY = 60.0  # seconds


class Scheduler:
    """Answers requests with one engine, which is loaded and used in a thread of its own.

    `load` is called in that thread. At most `max_batch` requests are answered at a time, the others
    wait, at most `max_queue`. Prompts are read in passes of at most `prefill_chunk` tokens (None:
    64 on a CPU, 256 on a GPU). `adapters` are folders by name. Keys and values of the requests have
    `memory_limit` bytes (None: most of the free memory), those of earlier texts
    `prefix_cache_bytes` (None: a quarter of that, at most 1 GiB; 0: none are kept).

    `deliver` functions are called in the engine thread and must return at once. All methods may be
    called from any thread.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        max_batch: int = 16,
        max_queue: int = 64,
        prefill_chunk: int | None = None,
        prefix_cache_bytes: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        memory_limit: int | None = None,
    ):
        for name, value in (("max_batch", max_batch), ("prefill_chunk", prefill_chunk)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        self.tokenizer: AnyTokenizer
        self.context_length = 0
        self.adapters = tuple(adapters or ())
        self.failure: str | None = None
        self._load, self._max_batch, self._max_queue = load, max_batch, max_queue
        self._counts: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._make_loop = lambda engine: EngineLoop(
            engine, adapters or {}, self._counts, max_batch=max_batch, prefill_chunk=prefill_chunk,
            prefix_cache_bytes=prefix_cache_bytes, memory_limit=memory_limit,
        )  # fmt: skip
        self._loop: EngineLoop | None = None
        self._lock = threading.Condition()
        self._open: dict[int, Answer] = {}  # submitted and not ended, by the ticket's number
        self._number, self._draining, self._closed = 0, False, False
        self._seconds = 1.0  # that a request takes once it is admitted, smoothed
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
        loop = self._loop
        if loop is None:
            raise Draining(self.failure or "the model is not loaded, or not any more")
        self._check(request)
        room = self.context_length - len(request.prompt)
        sampling = request.sampling
        if sampling.seed is None:
            # MLX's own random state belongs to the thread that asks first.
            sampling = replace(sampling, seed=secrets.randbits(63))
        plain = Request(request.prompt, min(request.max_tokens, room), sampling, request.stop)
        memory, size = loop.memory, len(plain.prompt) + plain.max_tokens
        if not memory.fits([size]):
            raise NotEnoughMemory(memory.needed([size]), memory.limit)
        row = loop.engine.row(0, plain, request.end_ids)
        with self._lock:
            if self._draining or not self.alive:
                raise Draining(self.failure or "the server is shutting down")
            if len(self._open) >= self._max_batch + self._max_queue:
                raise QueueFull(len(self._open), self._retry_after())
            self._number += 1
            answer = Answer(
                Ticket(self._number), request, deliver, row, self._counts,
                self.tokenizer.vocab_size,
            )  # fmt: skip
            self._open[self._number] = answer
            loop.waiting.append(answer)
            self._lock.notify_all()
            return answer.ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request within one step; unknown and finished ones are left alone."""
        with self._lock:
            if answer := self._open.get(ticket.number):
                answer.cancelled = True
                self._lock.notify_all()

    def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for the others; return whether all ended in this time."""
        with self._lock:
            self._draining = True
            return self._lock.wait_for(lambda: not self._open, seconds)

    def close(self) -> None:
        """Cancel all requests and end the thread."""
        with self._lock:
            self._draining = self._closed = True
            for each in self._open.values():
                each.cancelled = True
            self._lock.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def stats(self) -> Stats:
        """Return what the scheduler does now and has done."""
        loop, counts = self._loop, self._counts
        with self._lock:
            queued = len(loop.waiting) if loop else 0
            now = Stats(
                active=max(len(self._open) - queued, 0), queued=queued,
                prompt_tokens=counts["prompt"], cached_tokens=counts["cached"],
                generated_tokens=counts["generated"], finished=dict(self._finished),
                steps=counts["steps"], memory_bytes=counts["memory"], failures=counts["failures"],
            )  # fmt: skip
        if loop is None:
            return now
        prefix, guesses = loop.prefix, loop.engine.counts
        return replace(
            now, prefix_bytes=prefix.nbytes, prefix_entries=len(prefix), prefix_hits=prefix.hits,
            guessed_tokens=guesses.guessed, accepted_tokens=guesses.accepted,
        )  # fmt: skip

    def _check(self, request: Generate) -> None:
        if request.adapter is not None and request.adapter not in self.adapters:
            raise UnknownAdapter(request.adapter, self.adapters)
        if len(request.prompt) >= self.context_length:
            raise TooLong(len(request.prompt), self.context_length)
        size = self.tokenizer.vocab_size
        for what, ids in (("prompt", request.prompt), ("logit_bias", request.sampling.logit_bias)):
            unknown = next((each for each in ids if not 0 <= each < size), None)
            if unknown is not None:
                raise ValueError(
                    f"the {what} has id {unknown}, but the tokenizer has {size} tokens"
                )

    def _retry_after(self) -> float:
        """Return about when a place in the queue will be free."""
        return min(max(1.0, self._seconds / self._max_batch), _LONGEST_RETRY)

    def _run(self) -> None:
        try:
            engine = self._load()
            self._loop = self._make_loop(engine)
            self.tokenizer = engine.tokenizer
            self.context_length = engine.model.config.sequence_len
        except BaseException as error:
            self._error = error
            return
        finally:
            self._loaded.set()
        try:
            while self._wait(self._loop):
                self._loop.step()
                self._forget()
        # The thread must not end in silence: `alive` and the log say so, and requests end.
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            logger.critical("the engine has failed: %s", self.failure)
        finally:
            self._end_all()
            self._loop = None
            # A stream that lives until the end of the process can abort it.
            if hasattr(mx, "clear_streams"):
                mx.clear_streams()

    def _wait(self, loop: EngineLoop) -> bool:
        """Wait for work; return whether to go on."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed or loop.busy)
            return not self._closed

    def _forget(self) -> None:
        """Count the requests that have ended."""
        with self._lock:  # others add requests meanwhile
            ended = [each for each in self._open.values() if each.finish_reason is not None]
            for each in ended:
                del self._open[each.ticket.number]
                self._finished[str(each.finish_reason)] += 1
                seconds = time.monotonic() - each.begin
                self._seconds += 0.2 * (seconds - self._seconds)
            if ended:
                self._lock.notify_all()

    def _end_all(self) -> None:
        with self._lock:
            self._draining = True
            left = list(self._open.values())
        for each in left:
            with ends_on_error([each]):
                each.finish("error" if self.failure else "cancelled", self.failure)
        self._forget()
