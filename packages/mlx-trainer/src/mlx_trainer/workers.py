"""Threads that stay and compute with MLX, each on its own stream of the CPU."""

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Generic, TypeVar

import mlx.core as mx

Job = TypeVar("Job")
Result = TypeVar("Result")


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
