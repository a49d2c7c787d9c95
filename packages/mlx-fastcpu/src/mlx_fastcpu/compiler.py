"""The C++ compiler of `mx.compile`: check that it works, and set its flags.

MLX writes each kernel as C++ and compiles it with `g++ -O3` in a folder below TMPDIR that all users
share. Whoever writes there first determines what every user's MLX executes, and kernels with
different flags are not distinguished. So flags need a private folder for each set of flags,
compiler and CPU. TMPDIR is set to it, and PATH to a wrapper of g++ that adds the flags only to
MLX's kernels.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlx_fastcpu.slots import UnsupportedError

# The flags GCC needs to call libmvec's vector functions; infinities and NaN stay valid. For
# `-ffast-math` or `-funsafe-math-optimizations` on the command line GCC before 13 would link code
# that disables denormal numbers in the whole process; for the pragma it does not.
NATIVE_FLAGS = (
    "-march=native -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math -fno-signed-zeros "
    "-D__FAST_MATH__"
)
COMPILERS = ("cc", "gcc", "clang")  # of C
PRAGMA = '#pragma GCC optimize ("unsafe-math-optimizations")\n'
WRAPPER = """#!/bin/sh
# Written by mlx-fastcpu: adds flags for MLX's kernels, and for nothing else.
case "$*" in
*{folder}/tmp/mlx/*) exec {compiler} "$@" {flags} ;;
*) exec {compiler} "$@" ;;
esac
"""


def private_folder(name: str) -> Path:
    """Return the folder `name` in this user's cache, private to the user; create it if needed.

    Raises `UnsupportedError` when that fails, or when others own it or can write to it.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    except RuntimeError as error:  # no home
        raise UnsupportedError(f"no cache folder: {error}") from error
    root /= "mlx-fastcpu"
    folder = root / name
    for each in (root, folder):
        try:
            each.mkdir(mode=0o700, parents=each == root, exist_ok=True)
            state = each.lstat()
        except OSError as error:
            raise UnsupportedError(f"cannot create the folder {each}: {error.strerror}") from error
        if state.st_uid != os.getuid() or state.st_mode & 0o022 or not each.is_dir():
            raise UnsupportedError(
                f"{each} is not private to this user; remove it or set XDG_CACHE_HOME"
            )
    return folder


def compile_library(source: Path, flags: Sequence[str], key: str) -> Path:
    """Compile a C file to a shared library in the user's cache, unless it is there; return it.

    It is compiled again for another source, compiler, flags or `key`. Raises `UnsupportedError`
    without a compiler or if it fails.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise UnsupportedError(f"no compiler was found ({', '.join(COMPILERS)})")
    parts = [source.read_text(), _run([compiler, "--version"]), *flags, key]
    name = f"{source.stem}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    folder = private_folder("libraries")
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            new = Path(scratch, name)
            _run([compiler, *flags, str(source), "-o", str(new)])
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(folder / name)
    return folder / name


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        line = next((each for each in lines if "error" in each), lines[-1])
        raise UnsupportedError(f"{command[0]} failed: {line}")
    return done.stdout


def compiler_version() -> str | None:
    """Return the first line of `g++ --version`, or `None` without g++ on PATH."""
    try:
        done = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0]


def prepare_compiler(flags: str | None) -> str:
    """Make `mx.compile` work, with `flags` if given; return a description of the result.

    If kernels cannot be compiled and loaded, or others can write to their folder, a private folder
    is used. If that fails too, `mx.compile` is disabled and functions run uncompiled.
    """
    from mlx import core as mx

    version = compiler_version()
    if version is None:
        mx.disable_compile()  # MLX before 0.32 would exit at the first kernel
        return "no g++ on PATH: mx.compile is off"
    refusal = None
    if flags is not None:
        try:
            use_flags(flags)
        except UnsupportedError as error:
            refusal = str(error)
        else:
            return f"{version}, flags {flags!r}" if flags else f"{version}, private folder"
    failure = find_compile_failure() or _find_other_writers(kernel_folder())
    if failure is None:
        return f"{version}; {refusal}" if refusal else version
    try:
        use_flags("")
    except UnsupportedError:
        mx.disable_compile()
        return f"mx.compile is off: {failure}"
    return f"{version}, private folder: {failure}"


def use_flags(flags: str) -> Path:
    """Compile kernels with `flags` from now on ("native": those for this CPU); return their folder.

    Raises `UnsupportedError`, with nothing changed, without a compiler, if the flags do not work,
    or if no private folder can be created.
    """
    # Without the wrappers of earlier calls and of a parent process, which would form a chain.
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join(each for each in entries if "/mlx-fastcpu/kernels-" not in each)
    version, compiler = compiler_version(), shutil.which("g++", path=path)
    if version is None or compiler is None:
        raise UnsupportedError("no g++ on PATH")
    native = flags == "native"
    flags = NATIVE_FLAGS if native else flags
    key = "\n".join((version, compiler, flags, _cpu_flags()))
    folder = private_folder(f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}")
    if native:
        (folder / "pragma.h").write_text(PRAGMA)
        flags = f"{flags} -include {shlex.quote(str(folder / 'pragma.h'))}"
    for part in ("bin", "tmp"):
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    wrapper = folder / "bin" / "g++"
    temporary = wrapper.with_name(f"g++.{os.getpid()}")
    paths = {"folder": shlex.quote(str(folder)), "compiler": shlex.quote(compiler)}
    temporary.write_text(WRAPPER.format(**paths, flags=flags))
    temporary.chmod(0o700)
    temporary.rename(wrapper)
    if failure := find_compile_failure(folder / "tmp", wrapper):
        raise UnsupportedError(f"the compiler does not work with these flags: {failure}")
    tempfile.gettempdir()  # Python caches its folder, so that only MLX's changes
    os.environ["TMPDIR"] = str(folder / "tmp")
    os.environ["PATH"] = f"{wrapper.parent}{os.pathsep}{path}"
    return folder


def find_compile_failure(temporary: Path | None = None, compiler: str | Path = "g++") -> str | None:
    """Compile and load a small library in MLX's kernel folder; return the error, or `None`.

    A folder mounted `noexec`, or created by another user, fails here as it would in MLX.
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
    """Return the folder of MLX's compiled kernels below `temporary`, by default TMPDIR."""
    from mlx import core as mx

    root = temporary or Path(os.environ.get("TMPDIR") or "/tmp")
    return root / "mlx" / mx.__version__ / "cpu"  # type: ignore[attr-defined]


def _find_other_writers(folder: Path) -> str | None:
    for each in (folder, *folder.parents[:2]):
        state = each.stat()
        if state.st_uid not in (0, os.getuid()) or state.st_mode & 0o022:
            return f"others may write to {each}"
    return None


def _cpu_flags() -> str:
    """Return the CPU's feature flags: machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
