"""Speed is not asserted, as the machine may be busy; the required speed-up is set to 0."""

import ctypes
import shutil

import numpy as np
import pytest

from mlx_fastcpu import blas, compiler, reduced

ROW_MAJOR, COLUMN_MAJOR = 101, 102
TRANSPOSE = {False: 111, True: 112}


def why_not():
    if not {"avx512_bf16", "avx512bw"} <= reduced._cpu()[0]:
        return "this CPU has no AVX512-BF16"
    if not any(map(shutil.which, compiler.COMPILERS)):
        return "there is no C compiler"
    return None


reason = why_not()
able = pytest.mark.skipif(reason is not None, reason=reason or "")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Compile into a folder of the tests, once for all of them and the processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def address_of(function):
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class Products:
    """The compiled product, called without MLX, and its float32 fallback."""

    def __init__(self):
        self.library = blas.load_library(blas.find_library(None))
        self.float32 = reduced._SGEMM(self.library.address("cblas_sgemm") or 0)
        self.fallen_back = 0
        self.recorder = reduced._SGEMM(self._record)  # kept alive while C may call it
        self.compiled = ctypes.CDLL(str(reduced._compile("test")))
        self.use_mkl(0)
        self.reduced = reduced._SGEMM(address_of(self.compiled.reduced_sgemm))

    def use_mkl(self, address):
        fallback = address_of(self.recorder)
        reduced._set_up(self.compiled, fallback, self.library, address)

    def _record(self, *arguments):
        self.fallen_back += 1
        self.float32(*arguments)


@pytest.fixture(scope="module")
def shared_products():
    return Products()


@pytest.fixture
def products(shared_products):
    shared_products.use_mkl(0)
    shared_products.fallen_back = 0
    return shared_products


def call(product, a, b, c, *, ta=False, tb=False, alpha=1.0, beta=0.0, order=ROW_MAJOR):
    """Write alpha a b + beta c into a copy of c and return it; leading dimensions are 3 wider."""
    m, k = a.shape
    n = b.shape[1]
    wide = [
        np.pad(np.ascontiguousarray(x.T if t else x), ((0, 0), (0, 3)), constant_values=np.nan)
        for x, t in ((a, ta), (b, tb), (c, False))
    ]
    pointers = [x.ctypes.data for x in wide]
    steps = [x.shape[1] for x in wide]
    product(
        order,
        *(TRANSPOSE[ta], TRANSPOSE[tb]),
        *(m, n, k, alpha, pointers[0], steps[0], pointers[1], steps[1]),
        *(beta, pointers[2], steps[2]),
    )
    assert np.isnan(wide[2][:, n:]).all()  # the gaps between the rows of C do not change
    return wide[2][:, :n]


def to_bfloat16(x):
    """Round float32 to bfloat16, to nearest even, and return it as float64."""
    bits = x.view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def matrices(m, n, k, seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal(s, dtype=np.float32) for s in ((m, k), (k, n), (m, n))]


# Tiles are 6 x 64, blocks 96 x 512 x 512; conversion goes by 16 rows and 32 neighbours. Products
# of more than 2^23 terms are shared between threads, by columns or (the tall ones) by rows.
SHAPES = {
    "whole-blocks": (96, 512, 512),
    "one-more-than-blocks": (97, 513, 513),
    "several-blocks": (200, 600, 1100),
    "fewest-rows": (16, 700, 49),
    "fewest-columns": (1600, 48, 131),
    "least-depth": (300, 200, 16),
    "odd": (131, 127, 533),
}


@able
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ta", [False, True], ids=["A", "A.T"])
@pytest.mark.parametrize("tb", [False, True], ids=["B", "B.T"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_product_is_that_of_the_rounded_inputs(products, shape, ta, tb, threads):
    blas.set_threads(products.library, threads)
    k = shape[2]
    a, b, c = matrices(*shape)
    for alpha, beta in ((1, 0), (-0.5, 1), (2, 0.25)):
        before = np.full_like(c, np.nan) if beta == 0 else c  # C is not read when beta is 0
        got = call(products.reduced, a, b, before, ta=ta, tb=tb, alpha=alpha, beta=beta)

        size = abs(alpha) * np.abs(a) @ np.abs(b) + abs(beta * c)
        rounded = alpha * to_bfloat16(a) @ to_bfloat16(b) + np.float64(beta) * c
        # k sums and two scalings, each off by at most 2^-24 of the sum of the absolute values
        assert (np.abs(got - rounded) <= (k + 4) * 2.0**-24 * size).all()
        exact = alpha * a.astype(np.float64) @ b + np.float64(beta) * c
        # each input off by at most 2^-8: 2^-7 together, and a little for their product and sums
        assert (np.abs(got - exact) <= 1.01 * 2.0**-7 * size).all()
    assert products.fallen_back == 0


@able
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_nan_and_infinity_come_out_where_they_do_in_float32(products, ta, tb):
    a, b, c = matrices(100, 150, 67)
    a[3, -1], a[50, 2], b[-1, 70], b[5, 149] = np.nan, np.inf, -np.inf, np.nan
    got = call(products.reduced, a, b, c, ta=ta, tb=tb)
    expected = call(products.float32, a, b, c, ta=ta, tb=tb)
    finite = np.isfinite(expected)
    assert np.array_equal(np.isfinite(got), finite)
    assert np.array_equal(got[~finite], expected[~finite], equal_nan=True)


@able
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((15, 512, 512), {}),
        ((512, 47, 512), {}),
        ((512, 512, 15), {}),
        ((80, 80, 80), {}),  # 512000 products, fewer than 2^19
        ((128, 128, 128), {"alpha": 0.0, "beta": 1.0}),  # which must not read A and B
        ((128, 128, 128), {"order": COLUMN_MAJOR, "beta": 1.0}),
    ],
)
def test_products_that_are_not_reduced_equal_float32_bit_for_bit(products, shape, options):
    a, b, c = matrices(*shape)
    got = call(products.reduced, a, b, c, **options)
    assert products.fallen_back == 1
    assert np.array_equal(got, call(products.float32, a, b, c, **options), equal_nan=True)


@able
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_mkl_multiplies_the_same_rounded_inputs(products, ta, tb):
    address = reduced._mkl_product()
    if not address:
        pytest.skip("MKL is not installed")
    products.use_mkl(address)
    a, b, c = matrices(97, 201, 131)
    got = call(products.reduced, a, b, c, ta=ta, tb=tb, alpha=-0.5, beta=2.0)
    size = 0.5 * np.abs(a) @ np.abs(b) + np.abs(2 * c)
    rounded = -0.5 * to_bfloat16(a) @ to_bfloat16(b) + 2 * c
    assert (np.abs(got - rounded) <= (131 + 4) * 2.0**-24 * size).all()
    assert products.fallen_back == 0


# Runs in a process of its own, with one small measurement and no required speed-up.
START = """
import json, mlx.core as mx, mlx.nn as nn, numpy as np
import mlx_fastcpu
from mlx_fastcpu import reduced
reduced.SIZES, reduced.LEAST_SPEEDUP = (512,), 0
mlx_fastcpu.activate()
mx.set_default_device(mx.cpu)
big = mx.random.normal((3, 512, 512), key=mx.random.key(0))
small = mx.random.normal((48, 48), key=mx.random.key(1))
products = lambda: [np.array(big @ big), np.array(small @ small)]
same = lambda x, y: [bool(np.array_equal(*pair)) for pair in zip(x, y)]
before = products()
"""


@able
def test_mlx_multiplies_reduced_between_enable_and_disable(values_of):
    status, again, error, during, after = values_of(f"""{START}
status = reduced.enable()
enabled = products()
again = reduced.enable()
error = float(np.linalg.norm(enabled[0] - before[0]) / np.linalg.norm(before[0]))
reduced.disable()
after = same(products(), before)
reduced.disable()
print(json.dumps([str(status), str(again), error, same(enabled, before), after]))
""")
    assert status == again
    assert status.startswith("active: float32 products round their inputs to bfloat16, ")
    assert " times as fast as float32, relative error 2." in status
    assert 1e-3 < error < 4e-3  # as measured by `enable`: 2.4e-3 for random inputs
    assert during == [False, True]  # the small product is not reduced
    assert after == [True, True]


@able
def test_the_context_manager_restores_the_earlier_state(values_of):
    assert values_of(f"""{START}
steps = []
with reduced.matmul() as status:
    steps += [status.active, same(products(), before)[0]]
steps.append(same(products(), before)[0])
try:
    with reduced.matmul():
        raise KeyError
except KeyError:
    steps.append(same(products(), before)[0])
reduced.enable()
with reduced.matmul():
    pass
steps.append(same(products(), before)[0])
print(json.dumps(steps))
""") == [True, False, True, True, False]


@able
def test_another_library_ends_the_reduction_and_disable_keeps_it(values_of):
    assert values_of(f"""{START}
reduced.enable()
mlx_fastcpu.activate(mlx_fastcpu.activate().library)
steps = [all(same(products(), before)), reduced._is_active()]
reduced.disable()
steps.append(all(same(products(), before)))
steps.append(reduced.enable().active)
print(json.dumps(steps))
""") == [True, False, True, True]


@able
def test_gradients_stay_near_those_of_float32(values_of):
    losses, errors = values_of(f"""{START}
from mlx.utils import tree_flatten
mx.random.seed(0)
model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
inputs, targets = mx.random.normal((2, 300, 256))
mx.eval(model.parameters(), inputs, targets)
def gradients():
    loss, tree = nn.value_and_grad(model, lambda x: nn.losses.mse_loss(model(x), targets))(inputs)
    return float(loss), {{name: np.array(each) for name, each in tree_flatten(tree)}}
loss, exact = gradients()
with reduced.matmul():
    reduced_loss, rounded = gradients()
norm = np.linalg.norm
errors = {{name: float(norm(rounded[name] - exact[name]) / norm(exact[name])) for name in exact}}
print(json.dumps([[loss, reduced_loss], errors]))
""")
    # Up to four products on the way to a gradient, each off by 2.4e-3 of its norm.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert {name: error for name, error in errors.items() if not 0 < error < 1e-2} == {}


@able
def test_a_small_speedup_is_declined_with_its_measurements(values_of):
    status, unchanged = values_of(f"""{START}
reduced.LEAST_SPEEDUP = 1000
status = reduced.enable()
print(json.dumps([str(status), all(same(products(), before))]))
""")
    assert status.startswith("inactive: less than 1000 times as fast")
    assert " times as fast as float32, relative error 2." in status
    assert unchanged


@able
@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        ("os.environ['PATH'] = ''", "no compiler was found (cc, gcc, clang)"),
        (
            "reduced.FLAGS = ('-mnothing',)",
            "/cc failed: ",
        ),
        ("os.environ['XDG_CACHE_HOME'] = '/dev/null'", "/dev/null/mlx-fastcpu"),
        (
            "folder = pathlib.Path('mlx-fastcpu').absolute(); folder.mkdir(); folder.chmod(0o777);"
            "os.environ['XDG_CACHE_HOME'] = str(folder.parent)",
            "mlx-fastcpu is not private to this user",
        ),
    ],
    ids=["no-compiler", "compiler-fails", "no-folder", "folder-of-all"],
)
def test_a_machine_that_cannot_compile_is_not_changed(values_of, prepare, reason):
    status, unchanged = values_of(f"""{START}
import os, pathlib
{prepare}
status = reduced.enable()
reduced.disable()
print(json.dumps([str(status), all(same(products(), before))]))
""")
    assert status.startswith("inactive: ")
    assert reason in status
    assert unchanged


@pytest.mark.parametrize(
    "text", [None, "flags\t\t: fpu avx512f avx512bw amx_tile\n", "Features : asimd\n"]
)
def test_a_cpu_without_the_instructions_is_refused(monkeypatch, tmp_path, text):
    monkeypatch.setattr(reduced, "CPU_INFO", tmp_path / "cpuinfo")
    if text is not None:
        reduced.CPU_INFO.write_text(text)
    status = reduced.enable()
    assert str(status) == "inactive: this CPU has no AVX512-BF16"
    with reduced.matmul() as status:
        assert not status.active
