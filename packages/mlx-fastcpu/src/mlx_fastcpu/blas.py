"""Find a BLAS and LAPACK library, redirect MLX's calls to it, and verify the results.

MLX's Linux wheels include the reference BLAS, about 30 times slower than OpenBLAS. `libmlx.so`
calls it through import slots that contain function addresses. Writing other addresses there
redirects the calls of a running process, whatever was imported first, and exposes no symbol to
other libraries.
"""

import ctypes
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_fastcpu.slots import UnsupportedError, loaded_slots, read_slots, write_slots

# The matrix products and LAPACK routines (with their precision letter) that MLX calls: only known
# calls are redirected, not every name that looks like BLAS.
WANTED = re.compile(
    r"cblas_[sdcz]gemm"
    r"|[sdcz](geev|gelsd|geqrf|gesdd|gesv|gesvd|getrf|getri|getrs|potrf|potri|potrs|trtri|trtrs)_"
    r"|[sd](orgqr|ormqr|syev|syevd|syevr)_|[cz](ungqr|unmqr|heev|heevd|heevr)_"
)
PREFIXES = ("", "scipy_")
SET_THREADS = ("openblas_set_num_threads", "MKL_Set_Num_Threads")
GET_THREADS = ("openblas_get_num_threads", "MKL_Get_Max_Threads")
NAMED_LIBRARIES = ("mkl", "openblas")


@dataclass(frozen=True)
class Library:
    """A loaded BLAS library, with the prefix of its symbol names."""

    path: str
    handle: ctypes.CDLL
    prefix: str

    def address(self, name: str) -> int | None:
        """Return the address of a function, or `None`."""
        function = getattr(self.handle, self.prefix + name, None)
        return ctypes.cast(function, ctypes.c_void_p).value if function else None

    def call_first(self, names: tuple[str, ...], *arguments: int) -> int | None:
        """Call the first of these functions that exists, or return `None`."""
        for name in names:
            if function := getattr(self.handle, self.prefix + name, None):
                return int(function(*arguments))
        return None


def find_library(name: str | None) -> str:
    """Return the path of the library `name`, or its name for the loader.

    `None` is the library of the `scipy-openblas32` package; "mkl" and "openblas" are searched in
    the folders of their packages and the system; other names are returned unchanged. Raises
    `UnsupportedError` when none is found.
    """
    if name is None:
        spec = importlib.util.find_spec("scipy_openblas32")
        folders = [Path(each) / "lib" for each in (spec and spec.submodule_search_locations) or ()]
        files, hint = ["libscipy_openblas*.so*"], "pip install scipy-openblas32"
    elif name == "mkl":
        root = os.environ.get("MKLROOT")
        folders = [Path(sys.prefix) / "lib", *([Path(root) / "lib"] if root else [])]
        files, hint = ["libmkl_rt.so*"], "pip install mkl"
    elif name == "openblas":
        folders = [
            Path(sys.prefix) / "lib",
            *Path("/usr/lib").glob("*-linux-gnu"),
            Path("/usr/lib64"),
        ]
        files, hint = ["libopenblas.so*", "libopenblasp.so*"], "install the system's OpenBLAS"
    else:
        return name
    found = [each for folder in folders for file in files for each in sorted(folder.glob(file))]
    if not found:
        raise UnsupportedError(f"{name or 'scipy-openblas32'} was not found; {hint}")
    return str(found[0])


def load_library(path: str) -> Library:
    """Load a BLAS library with LAPACK and the 32-bit integers that MLX passes.

    Raises `UnsupportedError` for other libraries. Symbols stay local to the handle, so that the
    BLAS of NumPy or PyTorch is not replaced.
    """
    try:
        handle = ctypes.CDLL(path)
    except OSError as error:
        raise UnsupportedError(f"cannot load {error}") from error
    for prefix in PREFIXES:
        library = Library(path, handle, prefix)
        if library.address("cblas_sgemm") and library.address("sgetrf_"):
            if not has_32_bit_integers(handle[f"{prefix}sgetrf_"]):
                raise UnsupportedError(
                    f"{path} does not use 32-bit integers (LP64), which MLX passes"
                )
            return library
    raise UnsupportedError(f"{path} is not a BLAS with LAPACK: no cblas_sgemm and sgetrf_ in it")


def bind(library: Library) -> int:
    """Redirect MLX's BLAS and LAPACK slots to `library`; return their number.

    Raises `UnsupportedError`, with nothing changed, when a function is missing or MLX then computes
    a wrong result.
    """
    slots = loaded_slots("libmlx.so", lambda name: WANTED.fullmatch(name) is not None)
    if "cblas_sgemm" not in slots:
        raise UnsupportedError("libmlx.so does not import cblas_sgemm; its BLAS cannot be replaced")
    new, missing = {}, []
    for name, each in slots.items():
        if address := library.address(name):
            new |= dict.fromkeys(each, address)
        else:
            missing.append(name)
    if missing:
        raise UnsupportedError(f"{library.path} does not have {', '.join(sorted(missing))}")
    rebind(new)
    return len(new)


def rebind(new: dict[int, int]) -> None:
    """Write addresses into MLX's slots.

    Restores the old ones and raises `UnsupportedError` if MLX then computes a wrong result.
    """
    old = read_slots(new)
    write_slots(new)
    if wrong := find_wrong_result():
        write_slots(old)
        raise UnsupportedError(f"with this library MLX computes a wrong {wrong}; change reverted")


def set_threads(library: Library, threads: int) -> None:
    """Set the number of threads, if the library has a function for that."""
    library.call_first(SET_THREADS, threads)


def get_threads(library: Library) -> int | None:
    """Return the number of threads, or `None` if the library has no function for that."""
    return library.call_first(GET_THREADS)


def has_32_bit_integers(sgetrf: Callable[..., object]) -> bool:
    """Call this LAPACK routine and return whether it works with LP64 integers.

    The integers passed are 64 bits wide with small values, which both kinds of library read as the
    same numbers; only the pivots that they write differ. So a library of the other kind does not
    crash.
    """
    matrix = np.array([[0, 2, 0], [0, 0, 4], [8, 0, 0]], dtype=np.float32, order="F")
    pivots = np.zeros(2 * len(matrix), dtype=np.int32)
    size, info = ctypes.c_int64(len(matrix)), ctypes.c_int64(-1)
    sgetrf(
        ctypes.byref(size),
        ctypes.byref(size),
        matrix.ctypes.data_as(ctypes.c_void_p),
        ctypes.byref(size),
        pivots.ctypes.data_as(ctypes.c_void_p),
        ctypes.byref(info),
    )
    # Rows 1 and 3 are exchanged, then rows 2 and 3: U is diagonal, L the identity.
    right_pivots = pivots.tolist() == [3, 3, 3, 0, 0, 0]
    return right_pivots and np.array_equal(matrix, np.diag([8, 2, 4]))


def find_wrong_result() -> str | None:
    """Return the name of an MLX computation that disagrees with NumPy, or `None`.

    The inputs differ in each call, so that stale buffers cannot contain the result.
    """
    import mlx.core as mx

    random = np.random.default_rng()
    left, right = random.standard_normal((33, 65)), random.standard_normal((65, 47))
    cases = (
        (mx.float32, left, right, 1e-3),
        (mx.float64, left, right, 1e-9),
        (mx.complex64, left + 1j * left[::-1], right - 1j * right[::-1], 1e-3),
    )
    for dtype, a, b, tolerance in cases:
        with mx.stream(mx.cpu):
            product = mx.array(a, dtype) @ mx.array(b, dtype)
        if not np.allclose(np.array(product), a @ b, atol=tolerance):
            return f"matrix product in {dtype}"

    # Small enough for one thread: waiting for a busy core would cost a second.
    matrix = left[:16, :16].astype(np.float32)
    with mx.stream(mx.cpu):
        _, singular, _ = mx.linalg.svd(mx.array(matrix))
        q, r = mx.linalg.qr(mx.array(matrix))
    if not np.allclose(np.array(singular), np.linalg.svd(matrix, compute_uv=False), atol=1e-3):
        return "singular value decomposition"
    if not np.allclose(np.array(q) @ np.array(r), matrix, atol=1e-3):
        return "QR decomposition"
    return None


def measure_matmul_gflops(size: int = 512, budget: float = 0.05) -> float:
    """Return the best speed of an MLX float32 matrix product on the CPU, in GFLOP/s.

    Measures for about `budget` seconds, after one product that starts the library's threads (0.1 s
    with the reference BLAS).
    """
    import mlx.core as mx

    best, spent = float("inf"), 0.0
    with mx.stream(mx.cpu):
        matrix = mx.random.normal((size, size), key=mx.random.key(0))
        mx.eval(matrix @ matrix)
        while spent < budget or best == float("inf"):
            start = time.perf_counter()
            mx.eval(matrix @ matrix)
            seconds = time.perf_counter() - start
            best, spent = min(best, seconds), spent + seconds
    return 2 * size**3 / best / 1e9
