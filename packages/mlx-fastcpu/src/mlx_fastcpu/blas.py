"""Find a BLAS and LAPACK library, point MLX's calls at it, and check the results.

MLX's Linux wheels bring the reference BLAS, about 30 times slower than OpenBLAS. `libmlx.so`
calls it through slots that hold function addresses; writing other addresses there re-points the
calls of a running process, whatever was imported first, and exposes no symbol to other libraries.
"""

import ctypes
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from mlx_fastcpu.elf import ElfError
from mlx_fastcpu.slots import UnsupportedError, loaded_slots, read_slots, write_slots
from mlx_fastcpu.verify import has_32_bit_integers, wrong_results

# The matrix products and the LAPACK routines (with their precision letter) that MLX calls. The
# names are a list, not "everything that looks like BLAS", so that only known calls move.
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
    """A loaded BLAS library, and what its symbol names begin with."""

    path: str
    handle: ctypes.CDLL
    prefix: str

    def address(self, name: str) -> int | None:
        """Return the address of a function, `None` when the library has none of that name."""
        function = getattr(self.handle, self.prefix + name, None)
        return ctypes.cast(function, ctypes.c_void_p).value if function else None

    def call_first(self, names: tuple[str, ...], *arguments: int) -> int | None:
        """Call the first of these functions that exists; `None` when none does."""
        for name in names:
            if function := getattr(self.handle, self.prefix + name, None):
                return int(function(*arguments))
        return None


def find_library(name: str | None) -> str:
    """Return the path, or the name for the loader, of the library that `name` stands for.

    `None` is the library of the `scipy-openblas32` package; "mkl" and "openblas" are searched
    where their packages and the system put them; anything else is returned as it is. Raises
    `UnsupportedError` when there is none.
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
    """Load a BLAS library and check that it is one, with the 32-bit integers MLX passes.

    Raises `UnsupportedError` otherwise. The symbols stay local to the handle, so that NumPy's or
    PyTorch's own BLAS is not replaced.
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
    raise UnsupportedError(f"{path} is no BLAS with LAPACK: it has no cblas_sgemm and sgetrf_")


def bind(library: Library) -> int:
    """Point MLX's BLAS and LAPACK slots at `library`; return their number.

    All functions are looked up before the first slot is written, and the old slots come back when
    MLX then computes anything wrong. Raises `UnsupportedError` in both cases.
    """
    try:
        slots = loaded_slots("libmlx.so", lambda name: WANTED.fullmatch(name) is not None)
    except ElfError as error:
        raise UnsupportedError(f"libmlx.so has an unknown layout: {error}") from error
    if "cblas_sgemm" not in slots:
        raise UnsupportedError("libmlx.so imports no cblas_sgemm; its BLAS cannot be replaced")
    new, missing = {}, []
    for name, each in slots.items():
        if address := library.address(name):
            new |= dict.fromkeys(each, address)
        else:
            missing.append(name)
    if missing:
        raise UnsupportedError(f"{library.path} lacks {', '.join(sorted(missing))}")
    rebind(new)
    return len(new)


def rebind(new: dict[int, int]) -> None:
    """Write addresses into MLX's slots; the old ones come back when MLX then computes wrong.

    Raises `UnsupportedError` in that case.
    """
    old = read_slots(new)
    write_slots(new)
    if wrong := wrong_results():
        write_slots(old)
        raise UnsupportedError(f"with this library MLX computes a wrong {wrong}; it was undone")


def set_threads(library: Library, threads: int) -> None:
    """Set how many threads the library computes with, where it has a function for that."""
    library.call_first(SET_THREADS, threads)


def get_threads(library: Library) -> int | None:
    """Return how many threads the library computes with, `None` when it does not say."""
    return library.call_first(GET_THREADS)
