"""Gradients of one model by several threads of the CPU, each on its own rows.

MLX computes elementwise operations on the CPU in one thread, so that two threads with half a batch
each are faster than one with all of it. What makes it hard is that in MLX 0.32 streams are local to
a thread: no thread may touch an array that another has not evaluated yet.
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

MOST_THREADS = 8  # also on a CPU of fewer cores, where they do no harm

Contents = list[tuple[dict | list, object, object]]  # container, key, value
Job = TypeVar("Job")
Result = TypeVar("Result")


class GradientThreads:
    """Threads that share the rows of the micro-batches of each update; call it with these.

    Each thread adds its own sums over the micro-batches. They come back unadded, one a thread.
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
        mx.eval(self.model.state, shares)  # no thread may see what another has yet to evaluate
        # The random state is local to a thread in MLX 0.32 (though mx.random.state is one object),
        # and a new thread's starts from entropy. So each share has a key drawn from the state of
        # this thread, which is the one that the user seeds and that checkpoints save.
        keys = split_random_key(len(shares))
        results = self._workers(list(zip(shares, keys, strict=True)))
        _put(results[0][1])
        return [sums for sums, _ in results]


def check_threads(threads: int) -> None:
    """Raise `ValueError` where a step cannot be computed by so many threads."""
    check_thread_count(threads, "threads")
    if threads > 1 and mx.default_device().type != mx.cpu:
        raise ValueError(
            f"threads={threads} is for the CPU, but the default device is {mx.default_device()}; "
            "use threads=1, or mx.set_default_device(mx.cpu) first"
        )


def check_thread_count(threads: int, name: str) -> None:
    """Raise `ValueError`, which calls them `name`, for more threads than cores, or none."""
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if not 1 <= threads <= most:
        raise ValueError(
            f"{name} must be from 1 to {most}, got {threads}: each thread holds gradients of the "
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
    """Return what one thread does for an update, with the state that only this thread uses."""
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
    """`function(batch)`, which uses `model`, for one of several threads that take turns with it.

    `nn.value_and_grad` and `mx.compile` put tracers into the model while the graph is made. So
    graphs are made under `lock`, which costs nothing: Python's own lock lets one thread make a
    graph at a time anyway. They are evaluated, which takes the time, outside it. A copy of the
    model for each thread would need no lock, but would miss what bound methods, closures and
    attributes of other types hold.

    The model is left as it was. What the calls change in it (running statistics) is seen by the
    next call only; after the last, `contents` holds it.
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
            _put(self.contents)
            try:
                result = self._function(batch)
                self.contents = list(_walk(self._model))
            finally:
                _put(before)
            # What the call added to the model is evaluated by the only thread that can do it.
            mx.eval(self._model.state)
        mx.eval(result, [value for _, _, value in self.contents])
        return result


def _put(contents: Contents) -> None:
    """Put the values into their containers."""
    for container, key, value in contents:
        container[key] = value  # type: ignore[index]


def _walk(tree: dict | list | tuple) -> Iterator[tuple[dict | list, object, object]]:
    """Yield container, key and value of all that the dicts and lists of a module hold."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list, tuple)):
            yield from _walk(value)
        if not isinstance(value, (dict, list)) and not isinstance(tree, tuple):
            yield tree, key, value  # a tuple too: mx.compile puts a new one in its place


class Workers(Generic[Job, Result]):
    """Persistent threads; each calls `make` once and what that returns with every job it is given.

    `make` runs in the thread, and what it returns is dropped there: MLX keeps compiled functions by
    thread and by address, so that one released elsewhere leaves an entry that a later function may
    be taken for (MLX issue 3940). `make` must not hold the owner of the workers, or they would
    never be collected.
    """

    def __init__(self, count: int, make: Callable[[], Callable[[Job], Result]]):
        queues: list[SimpleQueue] = [SimpleQueue() for _ in range(count)]
        # Daemons, because the interpreter waits for other threads before it runs exit handlers,
        # and it is such a handler, that of `finalize`, which ends these.
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
            wait(replies)  # whoever catches an interrupt must not race with the workers
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
            except BaseException as error:  # raised again where the result is asked for
                reply.set_exception(_explained(error))
            del task, job, reply  # an idle worker holds no gradients
    finally:
        del function
        # A stream left to the end of the process has been seen to end it with "terminate called
        # without an active exception".
        mx.clear_streams()


def _make_with_stream(make: Callable[[], Callable]) -> Callable:
    mx.set_default_device(mx.cpu)
    mx.set_default_stream(mx.new_stream(mx.cpu))
    return make()


def _explained(error: BaseException) -> BaseException:
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
        if thread is not threading.current_thread():  # where the garbage collector happens to run
            thread.join()
