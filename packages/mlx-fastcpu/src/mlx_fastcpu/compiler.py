"""The C++ compiler behind `mx.compile`: does it work, and may it use this CPU's vector units?

MLX writes each kernel as C++ and runs `g++ -O3` on it, found on PATH, in a folder below TMPDIR that
all users share. Whoever can write there first decides what every user's MLX executes, and the
folder does not tell kernels of different flags apart. So flags come with a folder of our own, which
nobody else may write to, one for each set of flags, compiler and CPU; TMPDIR points into it, and on
PATH a `g++` stands in front that adds the flags to MLX's kernels and to nothing else.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from mlx_fastcpu.slots import UnsupportedError

# Everything that lets GCC call libmvec's vector functions, and no more: neither infinities nor NaN
# are ruled out. `-ffast-math` and `-funsafe-math-optimizations` on the command line would make GCC
# before 13 link code that switches denormal numbers off in the whole process; as a pragma the
# latter does not.
NATIVE_FLAGS = (
    "-march=native -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math -fno-signed-zeros "
    "-D__FAST_MATH__"
)
PRAGMA = '#pragma GCC optimize ("unsafe-math-optimizations")\n'
FRONT = """#!/bin/sh
# Written by mlx-fastcpu: MLX's kernels are compiled with more flags, anything else without.
case "$*" in
*{folder}/tmp/mlx/*) exec {compiler} "$@" {flags} ;;
*) exec {compiler} "$@" ;;
esac
"""


def private_folder(name: str) -> Path:
    """Return the folder `name` in this user's cache, made if need be, closed to all others.

    Raises `UnsupportedError` when it cannot be made, or when others own it or may write to it.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    except RuntimeError as error:  # no home
        raise UnsupportedError(f"no folder for caches: {error}") from error
    root /= "mlx-fastcpu"
    folder = root / name
    for each in (root, folder):
        try:
            each.mkdir(mode=0o700, parents=each == root, exist_ok=True)
            state = each.lstat()
        except OSError as error:
            raise UnsupportedError(f"cannot make the folder {each}: {error.strerror}") from error
        if state.st_uid != os.getuid() or state.st_mode & 0o022 or not each.is_dir():
            raise UnsupportedError(
                f"{each} is not only ours to write to; remove it or set XDG_CACHE_HOME"
            )
    return folder


def compiler_version() -> str | None:
    """Return the first line of `g++ --version`, `None` where there is no g++ on PATH."""
    try:
        done = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0]


def prepare_compiler(flags: str | None) -> str:
    """Make sure that `mx.compile` works, with `flags` where given; return what will happen.

    Where kernels cannot be compiled and loaded, or others may write to their folder, a private one
    is tried; where that fails too, `mx.compile` is switched off, and functions run uncompiled.
    """
    from mlx import core as mx

    version = compiler_version()
    if version is None:
        mx.disable_compile()  # MLX before 0.32 would end the process at the first kernel
        return "no g++ on PATH: mx.compile does nothing"
    unfit = None
    if flags is not None:
        try:
            use_flags(flags)
        except UnsupportedError as error:
            unfit = str(error)
        else:
            return f"{version}, flags {flags!r}" if flags else f"{version}, private folder"
    failure = compile_failure() or _open_to_others(kernel_folder())
    if failure is None:
        return f"{version}; {unfit}" if unfit else version
    try:
        use_flags("")
    except UnsupportedError:
        mx.disable_compile()
        return f"mx.compile is off: {failure}"
    return f"{version}, private folder: {failure}"


def use_flags(flags: str) -> Path:
    """Let kernels compiled from now on have `flags` ("native": those that suit this CPU).

    Returns the folder they are kept in. Raises `UnsupportedError`, with nothing changed, where
    there is no compiler, the flags do not work, or no safe folder can be made.
    """
    # Without the fronts of earlier calls, and of a parent process, which would else be chained.
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join(each for each in entries if "/mlx-fastcpu/kernels-" not in each)
    version, compiler = compiler_version(), shutil.which("g++", path=path)
    if version is None or compiler is None:
        raise UnsupportedError("there is no g++ on PATH")
    native = flags == "native"
    flags = NATIVE_FLAGS if native else flags
    key = "\n".join((version, compiler, flags, _cpu_flags()))
    folder = private_folder(f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}")
    if native:
        (folder / "pragma.h").write_text(PRAGMA)
        flags = f"{flags} -include {shlex.quote(str(folder / 'pragma.h'))}"
    for part in ("bin", "tmp"):
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    front = folder / "bin" / "g++"
    temporary = front.with_name(f"g++.{os.getpid()}")
    paths = {"folder": shlex.quote(str(folder)), "compiler": shlex.quote(compiler)}
    temporary.write_text(FRONT.format(**paths, flags=flags))
    temporary.chmod(0o700)
    temporary.rename(front)
    if failure := compile_failure(folder / "tmp", front):
        raise UnsupportedError(f"the compiler does not work with these flags: {failure}")
    tempfile.gettempdir()  # Python remembers the folder it has now; only MLX is to move
    os.environ["TMPDIR"] = str(folder / "tmp")
    os.environ["PATH"] = f"{front.parent}{os.pathsep}{path}"
    return folder


def compile_failure(temporary: Path | None = None, compiler: str | Path = "g++") -> str | None:
    """Compile and load an empty library where MLX keeps its kernels; return what went wrong.

    A folder mounted `noexec`, or one that another user made first, fails here as it would in MLX.
    """
    kernels = kernel_folder(temporary)
    try:
        kernels.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="mlx-fastcpu-", dir=kernels) as folder:
            source, library = Path(folder) / "probe.cpp", Path(folder) / "probe.so"
            source.write_text('extern "C" int probe() { return 1; }\n')
            command = [compiler, "-std=c++17", "-O3", "-fPIC", "-shared", source, "-o", library]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                text = (done.stderr or done.stdout).strip().splitlines()
                return f"g++ fails: {text[0] if text else f'exit code {done.returncode}'}"
            ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def kernel_folder(temporary: Path | None = None) -> Path:
    """Return where MLX keeps compiled kernels, given TMPDIR."""
    from mlx import core as mx

    root = temporary or Path(os.environ.get("TMPDIR") or "/tmp")
    return root / "mlx" / mx.__version__ / "cpu"  # type: ignore[attr-defined]


def _open_to_others(folder: Path) -> str | None:
    for each in (folder, *folder.parents[:2]):
        state = each.stat()
        if state.st_uid not in (0, os.getuid()) or state.st_mode & 0o022:
            return f"others may write to {each}"
    return None


def _cpu_flags() -> str:
    """What the CPU can do: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
