"""Working, missing and broken compilers; private and shared folders."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_fastcpu.compiler import private_folder
from mlx_fastcpu.slots import UnsupportedError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is activated elsewhere")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")

# Activate, let MLX compile a kernel, and print the status and the error of the result.
CODE = """
import json, math, os, sys
import mlx_fastcpu, mlx.core as mx, numpy as np
status = mlx_fastcpu.activate(compiler_flags={flags})
x = mx.linspace(-87, 0, 4001)
found = mx.compile(lambda x: mx.power(math.e, x) * 3 - 1e-30)(x)
wanted = 3 * np.exp(np.array(x, np.float64))
error = float(np.abs(np.array(found) / wanted - 1)[2000:].max())
print(json.dumps([status.active, status.compiler, status.reason, error]))
"""


@pytest.fixture
def fake_compiler(tmp_path):
    """A folder for PATH whose g++ is this shell script, and nothing else that compiles."""

    def make(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "g++").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "g++").chmod(0o755)
        return folder

    return make


@pytest.fixture
def folders(tmp_path):
    """Variables that keep compiled kernels away from this user's own."""
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": tmp_path / "tmp", "XDG_CACHE_HOME": tmp_path / "cache"}


@needs_compiler
def test_native_kernels_are_correct_and_in_a_private_folder(values_of, tmp_path, folders):
    active, compiler, _, error = values_of(CODE.format(flags='"native"'), **folders)
    assert active
    assert compiler.endswith("flags 'native'")
    assert error < 1e-5  # 4 units in the last place, times up to 87 for the rounded logarithm
    (kernels,) = (tmp_path / "cache" / "mlx-fastcpu").iterdir()
    assert list(kernels.glob("tmp/mlx/*/cpu/*.so"))
    assert not list((tmp_path / "tmp").rglob("*.so"))
    for folder in (kernels.parent, kernels):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@needs_compiler
def test_activating_again_and_in_a_child_uses_the_same_folder(python, tmp_path, folders):
    again = "import mlx_fastcpu; mlx_fastcpu.activate(compiler_flags='native')"
    code = f"{again}; {again}; import subprocess, sys, os; PATH = os.environ['PATH']\n"
    code += f'subprocess.run([sys.executable, "-c", "{again}"], check=True)\n'
    code += "print(PATH.count('/mlx-fastcpu/kernels-'))"
    assert python(code=code, **folders).stdout.split() == ["1"]
    assert len(list((tmp_path / "cache" / "mlx-fastcpu").iterdir())) == 1


@needs_compiler
def test_native_kernels_handle_infinities_nan_and_denormal_numbers(values_of, folders):
    code = (
        CODE.format(flags='"native"')
        + """
x = mx.array([math.inf, -math.inf, math.nan, 0.0] * 8)
found = mx.compile(lambda x: mx.where(mx.isnan(x), 7, mx.power(math.e, x)) + 0)(x)
denormal = np.float32(1e-40) * np.float32(1) != 0
print(json.dumps([str(found[:4].tolist()), bool(denormal)]))
"""
    )
    code = code.replace("print(json.dumps([status", "([status").replace("error]))", "error])", 1)
    assert values_of(code, **folders) == ["[inf, 0.0, 7.0, 1.0]", True]


@needs_compiler
def test_flags_reach_mlx_kernels_and_nothing_else(python, tmp_path, folders):
    code = (
        CODE.format(flags='"-DONLY_FOR_KERNELS -Werror=unknown-pragmas"')
        + """
import subprocess
source = "#ifdef ONLY_FOR_KERNELS\\n#error flags\\n#endif\\n"
done = subprocess.run(["g++", "-x", "c++", "-fsyntax-only", "-"], input=source, text=True)
assert done.returncode == 0
import tempfile
print(tempfile.gettempdir())
"""
    )
    lines = python(code=code, **folders).stdout.splitlines()
    assert "ONLY_FOR_KERNELS" in lines[0]
    assert lines[1] == str(tmp_path / "tmp")


@needs_compiler
def test_invalid_flags_are_not_used(values_of, folders):
    active, compiler, _, error = values_of(CODE.format(flags='"-no-such-flag"'), **folders)
    assert active
    assert "the compiler does not work with these flags" in compiler
    assert error < 1e-5


def test_without_a_compiler_functions_run_uncompiled(values_of, tmp_path, folders):
    (tmp_path / "empty").mkdir()
    for flags in ("None", '"native"'):
        found = values_of(CODE.format(flags=flags), PATH=tmp_path / "empty", **folders)
        assert found[:2] == [True, "no g++ on PATH: mx.compile is off"]
        assert found[3] < 1e-5


def test_with_a_broken_compiler_functions_run_uncompiled(values_of, fake_compiler, folders):
    script = 'case "$*" in *--version*) echo "g++ 99";; *) echo "disk full" >&2; exit 1;; esac'
    path = fake_compiler(script)
    for flags in ("None", '"native"'):
        found = values_of(CODE.format(flags=flags), PATH=f"{path}:/usr/bin:/bin", **folders)
        assert found[:2] == [True, "mx.compile is off: g++ fails: disk full"]
        assert found[3] < 1e-5


@needs_compiler
def test_a_kernel_folder_that_others_may_write_to_is_not_used(values_of, tmp_path, folders):
    (tmp_path / "tmp" / "mlx").mkdir()
    (tmp_path / "tmp" / "mlx").chmod(0o777)
    _, compiler, _, error = values_of(CODE.format(flags="None"), **folders)
    assert f"private folder: others may write to {tmp_path}/tmp/mlx" in compiler
    assert error < 1e-5
    assert not list((tmp_path / "tmp").rglob("*.so"))


@needs_compiler
def test_a_temporary_folder_mounted_noexec_is_not_used(values_of, tmp_path, folders):
    mount = ["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(tmp_path / "tmp")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a folder")
    try:
        _, compiler, _, error = values_of(CODE.format(flags="None"), **folders)
    finally:
        subprocess.run(["umount", str(tmp_path / "tmp")], check=True)
    assert "private folder:" in compiler
    assert "failed to map segment" in compiler
    assert error < 1e-5


def test_a_private_folder_is_refused_when_others_may_write_to_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = private_folder("kernels")
    folder.chmod(0o770)
    with pytest.raises(UnsupportedError, match="is not private to this user"):
        private_folder("kernels")
    folder.chmod(0o700)
    assert private_folder("kernels") == folder
    (tmp_path / "mlx-fastcpu" / "link").symlink_to(tmp_path)
    with pytest.raises(UnsupportedError, match="link is not private to this user"):
        private_folder("link")
