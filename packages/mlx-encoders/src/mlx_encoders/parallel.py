"""Run independent computations in several threads of the CPU."""

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

import mlx.core as mx

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    run: Callable[[Job], Result], jobs: Iterable[Job], threads: int, shared: object
) -> Iterator[Result]:
    """Yield `run(job)` as each is done, in any order if `threads` is above 1.

    Each thread has an MLX stream of its own and takes the next job when it is free. `shared` are
    the arrays that all use. The first error ends the others and is raised.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if threads > 1 and mx.default_device().type != mx.cpu:
        raise ValueError(f"threads={threads} is for the CPU; use threads=1 on a GPU")
    if threads == 1:
        yield from map(run, jobs)
        return
    mx.eval(shared)  # in MLX 0.32 a thread cannot evaluate what another has begun
    waiting, done = iter(list(jobs)), SimpleQueue()
    lock = threading.Lock()

    def work() -> None:
        try:
            mx.set_default_stream(mx.new_stream(mx.cpu))
            while True:
                with lock:
                    job = next(waiting, None)
                if job is None:
                    break
                done.put((run(job), None))
        except BaseException as error:
            done.put((None, error))
        finally:
            if hasattr(mx, "clear_streams"):
                mx.clear_streams()  # or MLX aborts when the process ends
            done.put(None)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    running, failure = threads, None
    while running:
        found = done.get()
        if found is None:
            running -= 1
        elif found[1] is None:
            yield found[0]
        else:
            failure = failure or found[1]
            with lock:
                waiting = iter(())
    for worker in workers:
        worker.join()
    if failure is not None:
        raise failure
