"""Prepare MLX for the machine; choose device, threads and the default dtype; measure memory."""

import os
import resource
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Bytes; enough to reuse the buffers of a step, and few enough to leave memory for the model.
CACHE_LIMIT = 2 << 30
# More threads cost more memory for gradients than they save time.
MAX_THREADS = 8


def prepare_machine(threads: int = 1) -> str:
    """Make MLX fast on a Linux CPU (a no-op elsewhere); return the changes in one line.

    `threads` training threads will share the cores with the BLAS.
    """
    import mlx_fastcpu
    from mlx_fastcpu import few_rows
    from mlx_fastcpu.patching import patch_everywhere

    status = mlx_fastcpu.activate(cache_limit=CACHE_LIMIT, compiler_flags="native")
    if all_threads := _blas_threads():
        status = mlx_fastcpu.activate(threads=max(1, all_threads // threads))
    patch_everywhere()
    return f"{status}, {few_rows.enable()}" if status.active else str(status)


@cache
def _blas_threads() -> int | None:
    """Return the original number of BLAS threads, None for a BLAS that we do not control."""
    import mlx_fastcpu

    return mlx_fastcpu.activate().threads


def use_device(name: str) -> None:
    """Compute on the "gpu" or the "cpu" from now on, whatever MLX would choose.

    Raises `ValueError` without a GPU that MLX can use.
    """
    import mlx.core as mx

    if name == "gpu" and not mx.is_available(mx.gpu):
        raise ValueError(
            "MLX finds no GPU here; on Linux it needs an NVIDIA GPU and the extra cuda12 or cuda13"
        )
    mx.set_default_device(mx.gpu if name == "gpu" else mx.cpu)


@dataclass(frozen=True)
class Device:
    """What MLX computes on."""

    backend: str
    """Metal, CUDA or CPU."""
    name: str
    memory: int
    """Bytes for models: of Metal what it recommends, of CUDA and CPUs what is free now."""


def describe_device() -> Device:
    """Return the device that MLX has chosen, or that `use_device` set."""
    import mlx.core as mx

    found = mx.device_info(mx.default_device())
    name = str(found.get("device_name", "unknown"))
    if mx.default_device() == mx.cpu:
        return Device("CPU", name, available_memory())
    if mx.metal.is_available():
        limit = found["max_recommended_working_set_size"]
        return Device("Metal", name, min(int(limit), int(found["memory_size"])))
    return Device("CUDA", name, int(found["free_memory"]))


def available_memory() -> int:
    """Return the bytes of main memory that programs can still use."""
    linux = Path("/proc/meminfo")
    if linux.is_file():
        for line in linux.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def default_dtype():
    """Return float32 on a CPU, where half precision is slow, and bfloat16 elsewhere."""
    import mlx.core as mx

    return mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16


def step_threads(wanted: int, rows: int) -> int:
    """Return how many threads share a micro-batch of `rows`; if `wanted` is 0, choose."""
    import mlx.core as mx

    if mx.default_device() != mx.cpu or not hasattr(mx, "clear_streams"):
        return 1
    if wanted:
        from mlx_trainer.threads import check_thread_count

        check_thread_count(wanted, "training.threads")
    return min(wanted or min(os.cpu_count() or 1, MAX_THREADS), rows)


def peak_memory() -> int:
    """Return the peak memory in bytes: of this process on a CPU, of MLX's arrays on a GPU."""
    import mlx.core as mx

    if mx.default_device() != mx.cpu:
        return mx.get_peak_memory()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
