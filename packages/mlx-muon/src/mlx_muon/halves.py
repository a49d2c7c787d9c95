"""Two cores of a CPU on one batch of matrices.

MLX computes what is on one stream in one thread, and a BLAS uses more only for large products. So
half of the matrices can go to a second stream: half the time where the BLAS has one thread, and
30 % less for matrices of 64 x 64 where it has two. Larger ones are then best left to the BLAS.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import mlx.core as mx

Input = TypeVar("Input")
State = list[mx.array]

# Multiplications in X X^T of all matrices below which two streams cost more than they save.
LEAST_WORK = 4_000_000
# Rows up to which two streams pay even if the BLAS has two threads.
MOST_ROWS = 64

_of_thread = threading.local()  # since MLX 0.32 a stream belongs to the thread that made it


def iterate(
    y: mx.array,
    start: Callable[[mx.array], State],
    step: Callable[[State, Input], State],
    inputs: Sequence[Input],
    two_streams: bool | None = None,
) -> list[State]:
    """Return `step(... step(start(y), inputs[0]) ..., inputs[-1])`, of both halves of `y` if split.

    `y` is (..., rows, columns) with rows <= columns, and `step` treats each matrix by itself. With
    `two_streams` `None` only small matrices are split.
    """
    second = _second_stream() if _pays(y, two_streams) else None
    if second is None:
        state = start(y)
        for each in inputs:
            state = step(state, each)
        return [state]
    half = len(y) // 2
    state = start(mx.contiguous(y[:half]))
    with mx.stream(second):
        other = start(mx.contiguous(y[half:]))
    for index, each in enumerate(inputs):
        state = step(state, each)
        with mx.stream(second):
            other = step(other, each)
        if index < len(inputs) - 1:
            # MLX starts what it meets first, and only a few operations ahead: without this it
            # would compute one half after the other.
            state = mx.depends(state, other)
    return [state, other]


def _pays(y: mx.array, two_streams: bool | None) -> bool:
    if mx.default_device().type != mx.cpu or y.ndim != 3 or len(y) < 2 or _cores() < 2:
        return False
    if two_streams is None:
        return y.size * y.shape[-2] >= LEAST_WORK and y.shape[-2] <= MOST_ROWS
    return two_streams


def _second_stream() -> mx.Stream:
    """Return the second stream of this thread."""
    if not hasattr(_of_thread, "stream"):
        _of_thread.stream = mx.new_stream(mx.cpu)
    return _of_thread.stream


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
