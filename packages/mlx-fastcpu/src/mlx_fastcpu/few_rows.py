"""Matrix products of a few rows, which generate text, without copies of the matrix.

MLX calls the general matrix product for them, in which BLAS libraries copy the matrix first. On a
core with OpenBLAS a row costs 4 to 8 times less this way, 5 rows 2 to 3 times less, and 16 rows 1.6
times less, for which the CPU must have AVX-512: without it 12 rows are the most. As many threads as
the library has share a large matrix.
"""

import ctypes
import logging
import subprocess
from functools import cache
from pathlib import Path

from mlx_fastcpu import activation, blas
from mlx_fastcpu.compiler import compile_library
from mlx_fastcpu.slots import UnsupportedError, loaded_slots, read_slots

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("few_rows.c")
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-march=native", "-pthread")
# Sums in any order. Not -ffast-math, with which some compilers disable denormal numbers.
FLAGS += ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
CPU_INFO = Path("/proc/cpuinfo")


def enable() -> str:
    """Compute MLX's float32 products of few rows this way from now on; return what was done.

    Calls `mlx_fastcpu.activate()` first. Sums are in another order than the library's. The first
    call compiles (1 s), into the user's cache. Without a compiler, or where `activate` does
    nothing, it changes nothing and the text states why. A later `activate()` of another library
    ends it.
    """
    try:
        with activation.lock:
            found = _enable()
    except (UnsupportedError, OSError, subprocess.SubprocessError) as error:
        found = "products of few rows are the library's: " + " ".join(str(error).split())
    log.info("%s", found)
    return found


def _enable() -> str:
    base = activation.activate()
    if base.library is None:
        raise UnsupportedError(base.reason)
    library = blas.load_library(base.library)
    gemv = library.address("cblas_sgemv")
    if gemv is None:
        raise UnsupportedError(f"{base.library} has no cblas_sgemv")
    slots = loaded_slots("libmlx.so", "cblas_sgemm".__eq__)["cblas_sgemm"]
    compiled = _load()
    ours = ctypes.cast(compiled.few_rows_sgemm, ctypes.c_void_p).value or 0
    present = set(read_slots(slots).values())
    if present != {ours}:
        if len(present) != 1:
            raise UnsupportedError("MLX's slots for cblas_sgemm differ from each other")
        compiled.few_rows_setup.argtypes = [ctypes.c_void_p] * 3
        compiled.few_rows_setup.restype = None
        compiled.few_rows_setup(present.pop(), gemv, thread_counter(library))
        blas.rebind(dict.fromkeys(slots, ours))
    return "products of few rows read the matrix once"


def thread_counter(library: blas.Library) -> int | None:
    """Return the address of the function that returns a library's number of threads, or None."""
    return next(filter(None, map(library.address, blas.GET_THREADS)), None)


@cache
def _load() -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_library(SOURCE, FLAGS, _cpu_flags())))


def _cpu_flags() -> str:
    """Return what -march=native depends on, so that a shared cache holds a library per CPU."""
    lines = CPU_INFO.read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
