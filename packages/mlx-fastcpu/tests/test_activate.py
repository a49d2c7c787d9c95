"""Each activation runs in a process of its own. Speed is not asserted: the machine may be busy."""

import sys

import pytest

import mlx_fastcpu
from mlx_fastcpu.activation import refuse_platform

linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing is activated elsewhere")

# The largest error of each computation, relative to NumPy's float64 result or to its input.
ERRORS = """
def errors():
    import numpy as np
    rng = np.random.default_rng(0)
    def relative(got, wanted):
        return float(np.abs(np.array(got) - wanted).max() / np.abs(wanted).max())
    A, B = rng.standard_normal((150, 90)), rng.standard_normal((90, 70))
    C, D = A + 1j * A[::-1], B - 1j * B[::-1]
    batch, S = rng.standard_normal((5, 30, 90)), A.T @ A + np.eye(90)
    f32 = lambda x: mx.array(x, mx.float32)
    with mx.stream(mx.cpu):
        q, r = mx.linalg.qr(f32(A))
        u, s, v = mx.linalg.svd(f32(A))
        w, V = mx.linalg.eigh(f32(S))
        L = mx.linalg.cholesky(f32(S))
        return {
            "matmul": relative(f32(A) @ f32(B), A @ B),
            "transposed": relative(f32(B).T @ f32(A).T, (A @ B).T),
            "batched": relative(f32(batch) @ f32(B), batch @ B),
            "vector": relative(f32(A) @ f32(B[:, 0]), A @ B[:, 0]),
            "float64": relative(mx.array(A, mx.float64) @ mx.array(B, mx.float64), A @ B),
            "complex64": relative(mx.array(C, mx.complex64) @ mx.array(D, mx.complex64), C @ D),
            "qr": relative(q @ r, A),
            "svd": relative((u[:, :90] * s) @ v, A),
            "eigh": relative((V * w) @ V.T, S),
            "cholesky": relative(L @ L.T, S),
            "inverse": relative(mx.linalg.inv(f32(S)) @ f32(S), np.eye(90)),
        }
"""
# float32 rounds to 6e-8 and these sums have at most 150 terms; the inverse adds its condition.
LARGEST = {"float64": 1e-14, "inverse": 1e-2}
BEFORE = "import json, mlx_fastcpu\nstatus = mlx_fastcpu.activate()\nimport mlx.core as mx\n"
AFTER = "import json, mlx.core as mx, mlx_fastcpu\n(mx.ones((9, 9)) @ mx.ones((9, 9))).tolist()\n"
AFTER += "status = mlx_fastcpu.activate()\n"
AUTO = "import json, mlx.core as mx, mlx_fastcpu.auto\nstatus = mlx_fastcpu.activate()\n"


@pytest.mark.parametrize("order", [BEFORE, AFTER, AUTO], ids=["before", "after", "auto"])
def test_mlx_computes_right_whatever_is_imported_first(values_of, order):
    active, errors = values_of(order + ERRORS + "print(json.dumps([status.active, errors()]))")
    assert {n: e for n, e in errors.items() if not e < LARGEST.get(n, 1e-4)} == {}
    if sys.platform == "linux":
        assert active


@linux
def test_the_status_reports_library_threads_and_speed(values_of):
    status, line = values_of("""
import json, mlx_fastcpu
from dataclasses import asdict
status = mlx_fastcpu.activate(threads=1)
print(json.dumps([asdict(status), str(status)]))
""")
    assert status["active"]
    assert status["slots"] >= 21  # what MLX 0.30 imports; 0.32 imports 24
    assert status["threads"] == 1
    assert status["gflops"] > 0
    assert "libscipy_openblas" in status["library"]
    assert line.startswith("active: MLX computes with libscipy_openblas")
    assert "\n" not in line


@linux
def test_a_second_call_changes_only_what_its_arguments_name(values_of):
    first, second, third, fourth = values_of("""
import json, mlx_fastcpu
from dataclasses import asdict
calls = [{}, {"threads": 1}, {"cache_limit": 1 << 20}, {}]
print(json.dumps([asdict(mlx_fastcpu.activate(**call)) for call in calls]))
""")
    same = ("active", "reason", "library", "slots")
    assert len({tuple(s[name] for name in same) for s in (first, second, third, fourth)}) == 1
    assert (second["threads"], second["cache_limit"]) == (1, first["cache_limit"])
    assert fourth["threads"] == 1
    assert fourth["cache_limit"] == third["cache_limit"]
    assert fourth["gflops"] == second["gflops"]


@linux
def test_many_threads_may_activate_at_once_and_one_does_the_work(values_of):
    statuses, fronts = values_of("""
import json, threading, mlx_fastcpu
from dataclasses import astuple
barrier, found = threading.Barrier(16), []
def activate():
    barrier.wait()
    found.append(mlx_fastcpu.activate())
    mlx_fastcpu.patching.install()
threads = [threading.Thread(target=activate) for _ in range(16)]
import mlx_fastcpu.patching
for thread in threads: thread.start()
for thread in threads: thread.join()
import mlx.core as mx
def depth(function):
    return 1 + depth(function.__wrapped__) if hasattr(function, "__wrapped__") else 0
print(json.dumps([[astuple(each) for each in found], [depth(mx.linalg.inv), depth(mx.softmax)]]))
""")
    assert len(statuses) == 16
    assert statuses[0][0] is True
    assert statuses == statuses[:1] * 16  # the speed too, which was measured once
    assert fronts == [1, 1]


@linux
@pytest.mark.parametrize(
    ("library", "reason"),
    [
        ("/nowhere/libblas.so", "cannot load /nowhere/libblas.so: cannot open shared object"),
        ("libm.so.6", "libm.so.6 is not a BLAS with LAPACK: no cblas_sgemm and sgetrf_ in it"),
        (__file__, f"cannot load {__file__}: "),
    ],
)
def test_an_unusable_library_changes_nothing(values_of, library, reason):
    refused, kept, errors = values_of(f"""
import json, mlx.core as mx, mlx_fastcpu
from dataclasses import asdict
refused = asdict(mlx_fastcpu.activate({library!r}))
mlx_fastcpu.activate()
kept = asdict(mlx_fastcpu.activate({library!r}))
{ERRORS}
print(json.dumps([refused, kept, errors()]))
""")
    assert not refused["active"]
    assert refused["reason"].startswith(reason)
    assert (refused["library"], refused["slots"], refused["gflops"]) == (None, 0, None)
    assert kept["active"]
    assert kept["reason"].endswith("libscipy_openblas.so stays")
    assert {n: e for n, e in errors.items() if not e < LARGEST.get(n, 1e-4)} == {}


@linux
@pytest.mark.parametrize(
    ("replaced", "computation"),
    [
        ("cblas_sgemm", "matrix product in mlx.core.float32"),
        ("cblas_dgemm", "matrix product in mlx.core.float64"),
        ("cblas_cgemm", "matrix product in mlx.core.complex64"),
    ],
)
def test_a_library_with_a_wrong_result_is_removed_again(values_of, replaced, computation):
    message, restored, errors = values_of(f"""
import json, mlx.core as mx
from mlx_fastcpu import blas, slots
library = blas.load_library(blas.find_library(None))
found = slots.loaded_slots("libmlx.so", lambda name: name == {replaced!r})[{replaced!r}]
before = slots.read_slots(found)
try:  # a function that takes no arguments and so writes no product
    blas.rebind(dict.fromkeys(found, library.address("openblas_get_num_threads")))
except slots.UnsupportedError as error:
    message = str(error)
{ERRORS}
print(json.dumps([message, slots.read_slots(found) == before, errors()]))
""")
    assert message == f"with this library MLX computes a wrong {computation}; change reverted"
    assert restored
    assert {n: e for n, e in errors.items() if not e < LARGEST.get(n, 1e-4)} == {}


@linux
def test_a_library_with_64_bit_integers_is_distinguished_from_one_with_32(values_of):
    pytest.importorskip("scipy_openblas32")
    right, wrong = values_of("""
import ctypes, json
from mlx_fastcpu import blas
path = blas.find_library(None)
sgetrf = ctypes.CDLL(path).scipy_sgetrf_
def ilp64(m, n, matrix, lda, pivots, info):  # what a 64-bit library would leave in `pivots`
    sgetrf(m, n, matrix, lda, pivots, info)
    narrow = ctypes.cast(pivots, ctypes.POINTER(ctypes.c_int32))
    narrow[0], narrow[1], narrow[2], narrow[3], narrow[4] = narrow[0], 0, narrow[1], 0, narrow[2]
print(json.dumps([blas.has_32_bit_integers(each) for each in (sgetrf, ilp64)]))
""")
    assert (right, wrong) == (True, False)


@linux
def test_a_libmlx_of_unknown_layout_is_not_changed(values_of, tmp_path):
    (tmp_path / "libmlx.so").write_bytes(b"\x7fELF\x02\x02" + bytes(200))
    unknown, several = values_of("""
import json, mmap
from mlx_fastcpu import blas, slots
library = blas.load_library(blas.find_library(None))
file = open("libmlx.so", "rb")
mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
try:
    blas.bind(library)
except slots.UnsupportedError as error:
    unknown = str(error)
import mlx_fastcpu
print(json.dumps([unknown, str(mlx_fastcpu.activate().reason)]))
""")
    assert unknown == "libmlx.so has an unknown layout: not a little-endian ELF-64 file"
    assert several.startswith("several libmlx.so are loaded: /")


@linux
def test_without_mlx_nothing_is_done_and_the_reason_is_reported(values_of):
    reason = values_of("""
import json, sys
sys.modules["mlx.core"] = None
import mlx_fastcpu
print(json.dumps(mlx_fastcpu.activate().reason))
""")
    assert reason.startswith("mlx.core cannot be imported: ")


def test_other_platforms_are_not_changed():
    assert refuse_platform("linux") is None
    assert refuse_platform("darwin") == "macOS: MLX already uses Metal and Accelerate"
    assert refuse_platform("win32") == "only Linux is supported, this is win32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"library": "openblass"},
            "library must be a path, a file name such as 'libopenblas.so.0', 'mkl' or 'openblas'; "
            "got 'openblass'",
        ),
        ({"cache_limit": -1}, "cache_limit must be at least 0 bytes, got -1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        mlx_fastcpu.activate(**arguments)
