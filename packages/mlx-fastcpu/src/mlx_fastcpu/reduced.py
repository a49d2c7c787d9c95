"""An opt-in float32 matrix product that rounds its inputs to bfloat16 and sums in float32.

CPUs with AVX512-BF16 multiply bfloat16 twice as fast as float32. `enable()` compiles
`reduced_gemm.c` with the system's compiler, measures it, and redirects MLX's float32 product to it.
Small products, and those that MLX does not pass in row-major order, stay float32.
"""

import contextlib
import ctypes
import functools
import logging
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlx_fastcpu import activation, blas
from mlx_fastcpu.compiler import compile_library
from mlx_fastcpu.slots import UnsupportedError, loaded_slots, read_slots, write_slots

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("reduced_gemm.c")
CPU_INFO = Path("/proc/cpuinfo")
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-mfma", "-mavx512f", "-mavx512bw")
FLAGS += ("-mavx512bf16",)
SIZES = (512, 1024, 2048)
LEAST_SPEEDUP = 1.2
# Each of the two roundings errs by up to 2^-8; together, for random inputs, by 2.4e-3.
LARGEST_ERROR = 4e-3
ROW_MAJOR, NO_TRANSPOSE = 101, 111  # of the CBLAS interface

Product = Callable[..., None]
_SGEMM = ctypes.CFUNCTYPE(
    None,
    *[ctypes.c_int] * 6,
    ctypes.c_float,
    *[ctypes.c_void_p, ctypes.c_int] * 2,
    ctypes.c_float,
    ctypes.c_void_p,
    ctypes.c_int,
)


@dataclass(frozen=True)
class ReducedStatus:
    """The result of `enable`.

    `speedup` is over the float32 product (geometric mean at 512, 1024 and 2048), `error` the
    relative difference from it (Frobenius norm, random 512 x 512); both are `None` if nothing was
    measured.
    """

    active: bool
    reason: str
    speedup: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        """Return one line for a log or a terminal."""
        parts = [f"{'active' if self.active else 'inactive'}: {self.reason}"]
        if self.speedup is not None:
            parts.append(f"{self.speedup:.2f} times as fast as float32")
        if self.error is not None:
            parts.append(f"relative error {self.error:.1e}")
        return ", ".join(parts)


_old: dict[int, int] = {}  # the slots' earlier values, while the reduced product is in them
_new: dict[int, int] = {}
_measured: dict[tuple[int, int | None], tuple[float, float]] = {}  # by function and threads


def enable() -> ReducedStatus:
    """Round the inputs of MLX's float32 matrix products to bfloat16 from now on.

    Calls `mlx_fastcpu.activate()` first; its BLAS computes the products that are not reduced and
    sets the number of threads. A later `activate()` of another library ends the reduction. The
    first call compiles (2 s) and measures (1 s), a later one takes 5 ms; the compiled file is kept
    in the user's cache folder. All computations through float32 products are reduced, gradients and
    convolutions too; subnormal inputs count as zero.

    Without AVX512-BF16 or a compiler, or below a speed-up of 1.2, nothing is changed and `reason`
    states why. It never raises because of the machine.
    """
    try:
        with activation.lock:
            status = _enable()
    except (UnsupportedError, OSError, subprocess.SubprocessError) as error:
        status = ReducedStatus(active=False, reason=" ".join(str(error).split()))
    log.info("%s", status)
    return status


def disable() -> None:
    """Undo `enable()`, except for slots that were redirected after it."""
    with activation.lock:
        if not _old:
            return
        held = read_slots(_old)
        write_slots({slot: old for slot, old in _old.items() if held[slot] == _new[slot]})
        _old.clear()
        _new.clear()


@contextlib.contextmanager
def matmul() -> Iterator[ReducedStatus]:
    """Reduce the products computed inside the `with` block; yield the status.

    Call `mx.eval` inside, because MLX computes arrays on evaluation. Products of other threads
    are reduced too. After an earlier `enable()` the reduction continues after the block.
    """
    was_active = _is_active()
    try:
        yield enable()
    finally:
        if not was_active:
            disable()


def _is_active() -> bool:
    return bool(_new) and read_slots(_new) == _new


def _enable() -> ReducedStatus:
    flags, model = _cpu()
    if not {"avx512_bf16", "avx512bw"} <= flags:
        raise UnsupportedError("this CPU has no AVX512-BF16")
    base = activation.activate()
    if base.library is None:
        raise UnsupportedError(base.reason)
    library = blas.load_library(base.library)
    slots = loaded_slots("libmlx.so", "cblas_sgemm".__eq__)["cblas_sgemm"]
    if not _is_active():
        _old.clear()
        _new.clear()
    present = _old or read_slots(slots)
    if len(set(present.values())) != 1:
        raise UnsupportedError("MLX's slots for cblas_sgemm differ from each other")
    fallback = next(iter(present.values()))
    compiled = _load(model)
    with_mkl = _set_up(compiled, fallback, library, _mkl_product() if "amx_bf16" in flags else 0)
    reduced = ctypes.cast(compiled.reduced_sgemm, ctypes.c_void_p).value or 0

    key = fallback, blas.get_threads(library)
    speedup, error = _measured.get(key) or _measure(_SGEMM(fallback), _SGEMM(reduced))
    status = ReducedStatus(
        True, "float32 products round their inputs to bfloat16", round(speedup, 2), error
    )
    if not error < LARGEST_ERROR:
        disable()
        return replace(status, active=False, reason="the reduced product is wrong")
    if speedup < LEAST_SPEEDUP:
        disable()
        hint = "; for AMX: pip install mkl" if "amx_bf16" in flags and not with_mkl else ""
        reason = f"less than {LEAST_SPEEDUP} times as fast{hint}"
        return replace(status, active=False, reason=reason)
    _measured[key] = speedup, error  # only if good: the machine may have been busy
    if not _new:
        blas.rebind(dict.fromkeys(slots, reduced))
        _old.update(present)
        _new.update(dict.fromkeys(slots, reduced))
    return status


def _cpu() -> tuple[set[str], str]:
    try:
        text = CPU_INFO.read_text()
    except OSError:  # not Linux
        return set(), ""
    found = dict(re.findall(r"^(flags|model name)\s*:\s*(.*)$", text, re.MULTILINE))
    return set(found.get("flags", "").split()), found.get("model name", "")


@functools.cache
def _load(model: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(_compile(model)))


def _compile(model: str) -> Path:
    return compile_library(SOURCE, FLAGS, model)


def _mkl_product() -> int:
    """Return the address of MKL's bfloat16 product, which uses AMX; 0 without MKL.

    Its results are tested, its speed is not: no machine with AMX was available.
    """
    try:
        handle = ctypes.CDLL(blas.find_library("mkl"))
    except (UnsupportedError, OSError):
        return 0
    function = getattr(handle, "cblas_gemm_bf16bf16f32", None)
    return (ctypes.cast(function, ctypes.c_void_p).value or 0) if function else 0


def _set_up(compiled: ctypes.CDLL, fallback: int, library: blas.Library, mkl: int) -> bool:
    get_threads = next(filter(None, map(library.address, blas.GET_THREADS)), 0)
    compiled.reduced_setup.argtypes = [ctypes.c_void_p] * 3
    compiled.reduced_setup.restype = None
    compiled.reduced_setup(fallback, get_threads, mkl)
    return mkl != 0


def _measure(float32: Product, reduced: Product) -> tuple[float, float]:
    """Return the speed-up and the relative error of the reduced product."""
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((2, size, size), dtype=np.float32) for size in SIZES]
    outputs = [np.empty_like(pair) for pair in inputs]
    # OpenBLAS's threads spin for 0.1 s after a product and slow down what follows, so the reduced
    # products, whose threads sleep, come first.
    time.sleep(0.2)
    fast = [_seconds(reduced, a, b, out[1]) for (a, b), out in zip(inputs, outputs, strict=True)]
    slow = [_seconds(float32, a, b, out[0]) for (a, b), out in zip(inputs, outputs, strict=True)]
    exact, rounded = outputs[0]
    error = float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact))
    return math.prod(slow) ** (1 / len(SIZES)) / math.prod(fast) ** (1 / len(SIZES)), error


def _seconds(product: Product, left: np.ndarray, right: np.ndarray, out: np.ndarray) -> float:
    """Return the best time of at least 3 products of square matrices."""
    n = len(left)
    a, b, c = (each.ctypes.data for each in (left, right, out))
    best, spent, times = math.inf, 0.0, 0
    while spent < 0.1 or times < 3:
        start = time.perf_counter()
        product(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, n, n, n, 1, a, n, b, n, 0, c, n)
        seconds = time.perf_counter() - start
        best, spent, times = min(best, seconds), spent + seconds, times + 1
    return best
