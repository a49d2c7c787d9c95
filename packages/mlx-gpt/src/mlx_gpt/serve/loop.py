"""The work of the engine thread: who waits, whose prompt is read, who writes."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import mlx.core as mx

from mlx_gpt.engine.continuous import ContinuousBatch
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.memory import CacheMemory, probe
from mlx_gpt.engine.named_adapters import NamedAdapters
from mlx_gpt.engine.prefix_cache import PrefixCache, compact
from mlx_gpt.engine.prompts import Pace, PromptReading, Reader, choose
from mlx_gpt.serve.answer import Answer, ends_on_error


class EngineLoop:
    """Call `step` while `busy`, in the thread that made it; `waiting` may be appended to anywhere.

    An exception ends the requests in whose work it was raised. `step` raises only if the model
    cannot compute any more.
    """

    def __init__(
        self,
        engine: Engine,
        adapters: Mapping[str, Path],
        counts: Counter[str],
        *,
        max_batch: int,
        prefill_chunk: int | None,
        prefix_cache_bytes: int | None,
        memory_limit: int | None,
    ):
        self.engine, self.counts = engine, counts
        self.waiting: deque[Answer] = deque()
        self.readings: list[PromptReading[Answer]] = []
        self._adapters = NamedAdapters(engine.model, adapters) if adapters else None
        self.memory = CacheMemory(probe(engine.model, engine.make_cache()), memory_limit)
        if prefix_cache_bytes is None:
            prefix_cache_bytes = min(1 << 30, self.memory.limit // 4)
        self.prefix = PrefixCache(prefix_cache_bytes)
        self._max_batch, self._pace = max_batch, Pace()
        self._chunk = prefill_chunk or (64 if mx.default_device() == mx.cpu else 256)
        self._reader = Reader(engine.model, self._adapters, engine.make_cache)
        self.batch = self._new_batch()

    def _new_batch(self) -> ContinuousBatch[Answer]:
        engine = self.engine
        return ContinuousBatch(
            engine.model, engine.tokenizer.vocab_size, self._adapters, engine.speculation,
            engine.counts, self._chunk,
        )  # fmt: skip

    @property
    def running(self) -> list[Answer]:
        """The requests in the batch, and those whose prompt is being read."""
        return [*self.batch.active, *(each for one in self.readings for each in one.members)]

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.readings or self.batch.members)

    def step(self) -> None:
        """Hand out a token of each row, and read some of the prompts."""
        self.counts["steps"] += 1
        self._end_expired()
        self._admit()
        self.counts["memory"] = self.memory.needed([each.size for each in self.running])
        begin, writing = time.perf_counter(), len(self.batch.active)
        if self.batch.can_guess and not self.readings:
            with self._ends(self.batch.active, of_batch=True):
                self.batch.guess()
            self._leave()
            return
        with self._ends(self.batch.active, of_batch=True):
            self.batch.launch()
        with self._ends(self.batch.active, of_batch=True):
            self.batch.read()
        has_read = self._read_prompts(begin, writing)
        self._leave()
        self._join()
        if writing:
            self._pace.saw(time.perf_counter() - begin, writing, has_read)

    def _end_expired(self) -> None:
        for each in (*self.waiting, *self.running):
            if reason := each.expired:
                with ends_on_error([each]):
                    each.finish(reason)
        for _ in range(len(self.waiting)):
            each = self.waiting.popleft()
            if each.finish_reason is None:
                self.waiting.append(each)
        self._drop_readings()
        self._leave()

    def _drop_readings(self) -> None:
        for each in self.readings:
            each.members = [one for one in each.members if one.finish_reason is None]
        self.readings = [each for each in self.readings if each.members]

    def _admit(self) -> None:
        while self.waiting:
            answer, running = self.waiting[0], self.running
            sizes = [each.size for each in (*running, answer)]
            if len(sizes) > self._max_batch or (running and not self.memory.fits(sizes)):
                return
            self.waiting.popleft()
            self.counts["prompt"] += len(answer.request.prompt)
            reading = next((each for each in self.readings if each.is_of(answer)), None)
            if reading is None:
                known = self.prefix.find(answer.adapter, answer.request.prompt)
                reading = PromptReading(known, answer)
                self.readings.append(reading)
            else:
                reading.members.append(answer)
            answer.cached_tokens = reading.cached
            self.counts["cached"] += reading.cached

    def _read_prompts(self, begin: float, writing: int) -> bool:
        """Read on until the step, begun then, has taken its time; return whether it has read.

        Without texts in progress it goes on until a pass is done or somebody comes.
        """
        short = sum(each.unread <= self._chunk for each in self.readings)
        seconds = self._pace.seconds(writing, short) if writing and self.readings else math.inf

        def is_time() -> bool:
            if writing:
                return time.perf_counter() - begin >= seconds
            return bool(self.waiting) and len(self.running) < self._max_batch

        has_read = False
        while seconds and (left := [each for each in self.readings if not each.is_done]):
            pieces = choose(left, self._chunk)
            known, has_read = pieces[0][0].begun, True
            read = known.readings if known else [each for each, _ in pieces]
            with self._ends([member for each in read for member in each.members]):
                is_done = known.advance() if known else False
                known = known or self._reader.begin(pieces)
                while not is_done and not is_time():
                    is_done = known.advance()
            self._drop_readings()
            if not writing or is_time():
                break
        return has_read

    def _join(self) -> None:
        done = [each for each in self.readings if each.is_done]
        if not done:
            return
        self.readings = [each for each in self.readings if each not in done]
        rows = [(one, each.cache, each.logits) for each in done for one in each.members]
        members, caches, logits = zip(*rows, strict=True)
        with self._ends([*self.batch.active, *members], of_batch=True):
            self.batch.join(members, caches, mx.concatenate(list(logits)))
        for each in done:
            cache = each.cache
            assert cache is not None  # it has been read
            with self._ends([]):
                self.prefix.store(each.adapter, each.prompt, partial(compact, cache))

    def _leave(self) -> None:
        """Remove the answers that have ended from the batch, and keep what they read."""
        cache = self.batch.cache
        for row, each in enumerate(self.batch.members):
            if each.finish_reason not in (None, "error"):
                text = [*each.request.prompt, *each.tokens]
                count = min(len(text), cache.offset - cache.pads()[row])
                with self._ends([]):
                    self.prefix.store(each.adapter, text[:count], partial(cache.row, row, count))
        with self._ends(self.batch.active, of_batch=True):
            self.batch.leave()

    @contextmanager
    def _ends(self, answers: Sequence[Answer], of_batch: bool = False) -> Iterator[None]:
        """Let an exception in the block end these answers; then see whether the model computes.

        `of_batch` says that the batch may be broken, and begins a new one.
        """
        done = False
        with ends_on_error(answers):
            yield
            done = True
        if done:
            return
        self.counts["failures"] += 1
        if of_batch:
            self.batch = self._new_batch()
        self.prefix.clear()  # what was read before may not have been computed
        mx.clear_cache()
        probe(self.engine.model, self.engine.make_cache())
