"""Activate mlx-fastcpu, and share the cores between training threads and BLAS threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import mlx.core as mx

import mlx_fastcpu

# Bytes: enough to reuse every buffer of a step, few enough for a run of less than 4 GB.
CACHE_LIMIT = 1 << 30


def prepare_machine() -> str:
    """Make MLX fast on a Linux CPU (a no-op elsewhere); return its state in one line."""
    status = mlx_fastcpu.activate(cache_limit=CACHE_LIMIT, compiler_flags="native")
    _blas_threads()
    return str(status)


@contextmanager
def sharing_cores(threads: int) -> Iterator[None]:
    """Limit BLAS to its share of the cores while this many training threads compute."""
    all_threads, before = _blas_threads(), mlx_fastcpu.activate().threads
    if all_threads is None or before is None:  # not our BLAS, as on a GPU or a Mac
        yield
        return
    mlx_fastcpu.activate(threads=max(1, all_threads // threads))
    try:
        yield
    finally:
        mlx_fastcpu.activate(threads=before)


@cache
def _blas_threads() -> int | None:
    """Return the original number of BLAS threads, `None` if we do not control the BLAS."""
    return mlx_fastcpu.activate().threads


def step_threads(wanted: int) -> int:
    """Return the threads of a training step: `wanted` on a CPU, one elsewhere."""
    return wanted if mx.default_device() == mx.cpu and hasattr(mx, "clear_streams") else 1
