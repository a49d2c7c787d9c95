"""Gradients of one model by several threads of the CPU, each on its own rows.

MLX computes elementwise operations on the CPU in one thread, so two threads with half a batch each
are faster than one thread. In MLX 0.32 streams are local to a thread, so a thread must not use an
array that another thread has not evaluated yet.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_trainer.gradients import (
    Arrays,
    Gradients,
    LossFunction,
    Sums,
    accumulate,
    gradient_function,
)
from mlx_trainer.random_keys import Key, set_random_key, split_random_key

MOST_THREADS = 8  # allowed even with fewer cores, which does no harm

Contents = list[tuple[dict | list, object, object]]  # container, key, value
Job = TypeVar("Job")
Result = TypeVar("Result")


class GradientThreads:
    """Threads that share the rows of the micro-batches of an update; call it with these batches.

    Each thread sums over its share of the micro-batches; the sums are returned, one per thread.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, compile: bool, threads: int):
        self.model = model
        self.threads = threads
        self._workers = Workers(
            threads, partial(_worker, model, loss_fn, compile, threading.Lock())
        )
        self.close = self._workers.close

    def __call__(self, batches: list[Arrays]) -> list[Sums]:
        """Return the evaluated sums of each thread that had rows."""
        parts = [split_rows(batch, self.threads) for batch in batches]
        shares = [
            [each[number] for each in parts if number < len(each)]
            for number in range(max(map(len, parts)))
        ]
        mx.eval(self.model.state, shares)  # threads must share only evaluated arrays
        # The random state is local to a thread in MLX 0.32 (though mx.random.state is one object),
        # and a new thread's starts from entropy. So each share has a key drawn from the state of
        # this thread, which the user seeds and checkpoints save.
        keys = split_random_key(len(shares))
        results = self._workers(list(zip(shares, keys, strict=True)))
        _restore(results[0][1])
        return [sums for sums, _ in results]


def check_threads(threads: int) -> None:
    """Raise `ValueError` if a step cannot use this many threads."""
    check_thread_count(threads, "threads")
    if threads > 1 and mx.default_device().type != mx.cpu:
        raise ValueError(
            f"threads={threads} is for the CPU, but the default device is {mx.default_device()}; "
            "use threads=1, or mx.set_default_device(mx.cpu) first"
        )


def check_thread_count(threads: int, name: str) -> None:
    """Raise `ValueError`, naming the setting `name`, for more threads than cores, or none."""
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if not 1 <= threads <= most:
        raise ValueError(
            f"{name} must be from 1 to {most}, got {threads}: each thread stores gradients of the "
            "whole model, and more threads than cores save no time"
        )


def split_rows(batch: Mapping[str, mx.array], parts: int) -> list[Arrays]:
    """Split a batch into at most `parts` batches whose numbers of rows differ by at most 1."""
    shapes = {name: value.shape for name, value in batch.items()}
    if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
        raise ValueError(
            f"threads={parts} splits batches by rows, so all arrays of a batch need the same "
            f"first axis, got shapes {shapes}"
        )
    rows = next(iter(shapes.values()))[0]
    parts = max(1, min(parts, rows))
    ends = [rows * part // parts for part in range(1, parts + 1)]
    return [
        {name: value[start:end] for name, value in batch.items()}
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _worker(
    model: nn.Module, loss_fn: LossFunction, compile: bool, lock: threading.Lock
) -> Callable[[tuple[list[Arrays], Key]], tuple[Sums, Contents]]:
    """Return the function that one thread calls for each update, with separate state."""
    function = gradient_function(model, loss_fn, compile)

    def work(share: tuple[list[Arrays], Key]) -> tuple[Sums, Contents]:
        batches, key = share
        set_random_key(key)
        shared = _SharedModel(model, function, lock)
        sums = accumulate(shared, batches)
        mx.eval(sums)
        return sums, shared.contents

    return work


class _SharedModel:
    """A `function` of a batch that uses a `model` which several threads share.

    `nn.value_and_grad` and `mx.compile` put tracers into the model while they build a graph. So
    graphs are built under `lock`, which costs nothing: Python's own lock lets only one thread build
    at a time anyway. Evaluation, the slow part, runs outside the lock. A copy of the model per
    thread would need no lock, but would miss the arrays in bound methods, closures and attributes
    of other types.

    The model stays unchanged. Changes by a call (running statistics) are stored in `contents` for
    the next call of this thread.
    """

    def __init__(self, model: nn.Module, function: Gradients, lock: threading.Lock):
        self._model = model
        self._function = function
        self._lock = lock
        self.contents: Contents = []

    def __call__(self, batch: Arrays) -> tuple[tuple[mx.array, mx.array], dict]:
        """Return the evaluated result."""
        with self._lock:
            before = list(_walk(self._model))
            _restore(self.contents)
            try:
                result = self._function(batch)
                self.contents = list(_walk(self._model))
            finally:
                _restore(before)
            # Only this thread can evaluate the arrays that the call added to the model.
            mx.eval(self._model.state)
        mx.eval(result, [value for _, _, value in self.contents])
        return result


def _restore(contents: Contents) -> None:
    """Put the values into their containers."""
    for container, key, value in contents:
        container[key] = value  # type: ignore[index]


def _walk(tree: dict | list | tuple) -> Iterator[tuple[dict | list, object, object]]:
    """Yield container, key and value of every entry in the dicts and lists of a module."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list, tuple)):
            yield from _walk(value)
        if not isinstance(value, (dict, list)) and not isinstance(tree, tuple):
            yield tree, key, value  # tuples too: mx.compile replaces them


class Workers(Generic[Job, Result]):
    """Persistent threads: each calls `make` once, and the function it returns with every job.

    The function is created and released in its thread: MLX caches compiled functions by thread and
    address, so a function released in another thread leaves a stale entry, which a later function
    at the same address would hit (MLX issue 3940). `make` must not reference the owner of the
    workers, or they would never be collected.
    """

    def __init__(self, count: int, make: Callable[[], Callable[[Job], Result]]):
        queues: list[SimpleQueue] = [SimpleQueue() for _ in range(count)]
        # Daemons: the interpreter waits for non-daemon threads before it runs exit handlers, but
        # these threads are ended by the exit handler of `finalize`.
        threads = [
            threading.Thread(target=_work, args=(queue, make), daemon=True, name="mlx-trainer")
            for queue in queues
        ]
        for thread in threads:
            thread.start()
        self._queues = queues
        self.close = weakref.finalize(self, _end, queues, threads)

    def __call__(self, jobs: Sequence[Job]) -> list[Result]:
        """Give each job to one worker; return the results in order, or raise the first error."""
        replies: list[Future] = []
        try:
            for queue, job in zip(self._queues, jobs, strict=False):
                reply: Future = Future()
                queue.put((job, reply))
                replies.append(reply)
            wait(replies)
        except BaseException:
            wait(replies)  # the code that catches an interrupt must not race with the workers
            raise
        return [reply.result() for reply in replies]


def _work(queue: SimpleQueue, make: Callable[[], Callable]) -> None:
    function = None
    try:
        while (task := queue.get()) is not None:
            job, reply = task
            try:
                function = function or _make_with_stream(make)
                reply.set_result(function(job))
            except BaseException as error:  # raised again by `reply.result()`
                reply.set_exception(_with_note(error))
            del task, job, reply  # an idle worker must not keep gradients alive
    finally:
        del function
        # A stream that lives until the end of the process can abort it with "terminate called
        # without an active exception".
        mx.clear_streams()


def _make_with_stream(make: Callable[[], Callable]) -> Callable:
    mx.set_default_device(mx.cpu)
    mx.set_default_stream(mx.new_stream(mx.cpu))
    return make()


def _with_note(error: BaseException) -> BaseException:
    if "There is no Stream" in str(error):
        error.add_note(
            "With threads > 1, arrays that loss_fn uses besides those of model and batch must be "
            "evaluated beforehand: mx.eval(...)"
        )
    return error


def _end(queues: list[SimpleQueue], threads: list[threading.Thread]) -> None:
    for queue in queues:
        queue.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # the garbage collector may run here
            thread.join()
