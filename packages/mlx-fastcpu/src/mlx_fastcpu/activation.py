"""`activate`: speed up MLX on this machine, and report the result."""

import logging
import sys
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlx_fastcpu import blas
from mlx_fastcpu.allocator import set_cache_limit
from mlx_fastcpu.compiler import prepare_compiler
from mlx_fastcpu.forks import watch_forks
from mlx_fastcpu.slots import UnsupportedError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """The result of `activate`.

    If `active`, MLX computes with `library` (a path) through `slots` redirected functions, on
    `threads` threads (`None` if unknown), at `gflops` GFLOP/s in a 512 x 512 float32 product.
    `reason` states what was done, or why nothing was. `cache_limit` is in bytes, or `None` if
    unchanged or if MLX (before 0.32) has none on the CPU. `compiler` describes the compiler of
    `mx.compile`.
    """

    active: bool
    reason: str
    library: str | None = None
    slots: int = 0
    threads: int | None = None
    cache_limit: int | None = None
    gflops: float | None = None
    compiler: str | None = None

    def __str__(self) -> str:
        """Return one line for a log or a terminal."""
        parts = [f"{'active' if self.active else 'inactive'}: {self.reason}"]
        if self.threads:
            parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        if self.gflops:
            parts.append(f"{self.gflops:.0f} GFLOP/s")
        if self.cache_limit is not None:
            parts.append(f"buffer cache up to {self.cache_limit / 2**30:.1f} GiB")
        return ", ".join(parts)


_status = Status(active=False, reason="activate() was not called")
_library: blas.Library | None = None
_speeds: dict[tuple[str, int | None], float] = {}
lock = threading.RLock()  # held while the slots or the status change


def activate(
    library: str | Path | None = None,
    cache_limit: int | None = None,
    threads: int | None = None,
    compiler_flags: str | None = None,
) -> Status:
    """Connect MLX to an optimized BLAS and LAPACK, and let it keep freed buffers.

    Works before and after `import mlx.core`. A later call changes only the settings it is given.
    `library` is a path or file name of a BLAS with LAPACK, "mkl", "openblas" (the system's), or
    `None` for the `scipy-openblas32` package. `cache_limit` is in bytes; by default it is a quarter
    of the memory and at most 8 GiB, but never less than an earlier limit. `threads` defaults to the
    library's choice, which follows its environment variables. With `compiler_flags` "native"
    the kernels of `mx.compile` use this CPU's vector units (with GCC: exponentials 10 times faster,
    accurate to 4 units in the last place); other text is passed to g++. Either changes PATH and
    TMPDIR to a folder that only this user can write to.

    Does nothing on macOS, with a GPU, or if MLX's library has an unknown layout, and removes a
    library that computes a wrong result; `reason` then states why. It raises `ValueError` for wrong
    arguments, but never because of the machine.
    """
    _check_arguments(library, cache_limit, threads)
    if refusal := refuse_platform(sys.platform) or _refuse_device():
        status = Status(active=False, reason=refusal)
    else:
        with lock:
            status = _activate(library, cache_limit, threads, compiler_flags)
            watch_forks()
    log.info("%s", status)
    return status


def info() -> dict[str, Any]:
    """Return the status of `activate()` as a dict, with the matrix product's speed before it.

    `gflops_before` is `None` if it was active already.
    """
    with lock:
        before = None
        if not (_status.active or refuse_platform(sys.platform) or _refuse_device()):
            before = blas.measure_matmul_gflops(budget=0)
        return asdict(activate()) | {"gflops_before": before}


def refuse_platform(name: str) -> str | None:
    """Return why `activate` does nothing on this `sys.platform`, or `None` for Linux."""
    if name == "linux":
        return None
    if name == "darwin":
        return "macOS: MLX already uses Metal and Accelerate"
    return f"only Linux is supported, this is {name}"


def _refuse_device() -> str | None:
    try:
        import mlx.core as mx
    except ImportError as error:
        return f"mlx.core cannot be imported: {error}"
    if mx.is_available(mx.gpu):
        return "a GPU is available; nothing is changed for the CPU"
    return None


def _check_arguments(
    library: str | Path | None, cache_limit: int | None, threads: int | None
) -> None:
    if isinstance(library, str) and not (
        library in blas.NAMED_LIBRARIES or "/" in library or ".so" in library
    ):
        raise ValueError(
            "library must be a path, a file name such as 'libopenblas.so.0', 'mkl' or "
            f"'openblas'; got {library!r}"
        )
    if cache_limit is not None and cache_limit < 0:
        raise ValueError(f"cache_limit must be at least 0 bytes, got {cache_limit}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")


def _activate(
    library: str | Path | None,
    cache_limit: int | None,
    threads: int | None,
    compiler_flags: str | None,
) -> Status:
    global _library, _status
    failure = None
    if library is not None or not _status.active:
        try:
            _library, slots = _bind(library)
        except UnsupportedError as error:
            failure = f"{error}; {_status.library} stays" if _status.active else str(error)
        else:
            _status = replace(
                _status,
                active=True,
                reason=f"MLX computes with {Path(_library.path).name}",
                library=_library.path,
                slots=slots,
                gflops=None,
            )
    if cache_limit is not None or _status.cache_limit is None:
        _status = replace(_status, cache_limit=set_cache_limit(cache_limit))
    if compiler_flags is not None or _status.compiler is None:
        _status = replace(_status, compiler=prepare_compiler(compiler_flags))
    if _library is not None:
        _status = _set_threads(_library, threads)
    return replace(_status, reason=failure) if failure else _status


def _set_threads(library: blas.Library, threads: int | None) -> Status:
    if threads is not None:
        blas.set_threads(library, threads)
    elif _status.gflops is not None:  # nothing changed since the measurement
        return _status
    # The speed of each library on each number of threads is measured once: programs that share
    # the cores switch between two numbers often.
    count = blas.get_threads(library)
    key = (library.path, count)
    if key not in _speeds or count is None:
        _speeds[key] = blas.measure_matmul_gflops()
    return replace(_status, threads=count, gflops=_speeds[key])


def _bind(library: str | Path | None) -> tuple[blas.Library, int]:
    from mlx_fastcpu import nonfinite

    loaded = blas.load_library(blas.find_library(None if library is None else str(library)))
    slots = blas.bind(loaded)
    nonfinite.install()
    return loaded, slots
