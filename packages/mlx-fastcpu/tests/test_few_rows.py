"""Products of few rows, called without MLX and through it."""

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import product as product_of
from pathlib import Path

import numpy as np
import pytest

from mlx_fastcpu import blas, compiler, few_rows

ROW_MAJOR, NO, YES = 101, 111, 112
pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.COMPILERS)), reason="there is no C compiler"
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return compiler.compile_library(few_rows.SOURCE, few_rows.FLAGS, "test")


@pytest.fixture(scope="module")
def product(compiled):
    return load(compiled)


def load(compiled):
    library, code = blas.load_library(blas.find_library(None)), ctypes.CDLL(str(compiled))
    blas.set_threads(library, 3)
    code.few_rows_setup.argtypes = [ctypes.c_void_p] * 3
    code.few_rows_setup(
        library.address("cblas_sgemm"), library.address("cblas_sgemv"),
        few_rows.thread_counter(library),
    )  # fmt: skip
    sgemm = ctypes.CFUNCTYPE(
        None, *[ctypes.c_int] * 6, ctypes.c_float, *[ctypes.c_void_p, ctypes.c_int] * 2,
        ctypes.c_float, ctypes.c_void_p, ctypes.c_int,
    )  # fmt: skip
    return sgemm(ctypes.cast(code.few_rows_sgemm, ctypes.c_void_p).value)


@pytest.mark.parametrize("rows", [*range(1, 19), 31, 40, 41])
def test_every_product_is_that_of_numpy(product, rows):
    transposed = [(NO, NO), (NO, YES), (YES, NO), (YES, YES)]
    factors = [(1.0, 0.0), (0.5, 1.0), (2.0, -0.25)]
    for case in product_of([1, 2, 33, 35], [1, 15, 40], transposed, factors):
        check(product, rows, *case)


@pytest.mark.parametrize("rows", [3, 12, 13, 16, 38])
def test_long_rows_are_multiplied_in_parts(product, rows):
    for depth in (1024, 1025, 2048, 3083):
        check(product, rows, 20, depth, (NO, YES), (0.5, -1.0))


@pytest.mark.parametrize("rows", [1, 4, 7, 18])
def test_threads_share_a_large_product(product, rows):
    for columns in (701, 1024):
        check(product, rows, columns, 300, (NO, YES), (0.5, -1.0))


def test_products_of_several_threads_at_once_are_right(product):
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(check, product, 2, 700, 200, (NO, YES), (1.0, 0.0))
                     for _ in range(200)]:  # fmt: skip
            done.result()


def test_a_forked_process_computes_with_threads_of_its_own(compiled, python):
    code = (
        f"import os, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_few_rows import NO, YES, check, load\n"
        f"product, case = load({str(compiled)!r}), (1, 700, 300, (NO, YES), (1.0, 0.0))\n"
        "check(product, *case)\nchild = os.fork()\ncheck(product, *case)\n"
        "if not child:\n    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert python(code=code).stdout.strip() == "7"


def check(product, rows, columns, depth, transposed, factors):
    (ta, tb), (alpha, beta) = transposed, factors
    random = np.random.default_rng(rows)
    a, b = random.normal(size=(rows, depth)), random.normal(size=(depth, columns))
    before = random.normal(size=(rows, columns + 2)).astype(np.float32)
    expected = alpha * (a @ b) + beta * before[:, :columns]
    out = np.full_like(before, np.nan) if beta == 0 else before.copy()
    # Leading dimensions are larger than the rows; what lies between must not be read.
    wide = [
        np.pad(
            np.ascontiguousarray(x.T if t == YES else x, dtype=np.float32),
            ((0, 0), (0, 3)),
            constant_values=np.nan,
        )
        for x, t in ((a, ta), (b, tb))
    ]
    (a_at, a_step), (b_at, b_step) = ((x.ctypes.data, x.shape[1]) for x in wide)
    product(ROW_MAJOR, ta, tb, rows, columns, depth, alpha, a_at, a_step, b_at, b_step, beta,
            out.ctypes.data, columns + 2)  # fmt: skip
    np.testing.assert_allclose(out[:, :columns], expected, atol=1e-4 + 3e-7 * depth)
    kept = np.full_like(before, np.nan) if beta == 0 else before
    np.testing.assert_array_equal(out[:, columns:], kept[:, columns:])


def test_mlx_computes_with_it(python):
    code = (
        "import mlx.core as mx\nfrom mlx_fastcpu import few_rows\n"
        "weight, rows = mx.random.normal((50, 40)), mx.random.normal((5, 40))\n"
        "before = rows @ weight.T\nfirst, second = few_rows.enable(), few_rows.enable()\n"
        "assert first == second == 'products of few rows read the matrix once', first\n"
        "assert mx.allclose(rows @ weight.T, before, atol=1e-4)\n"
        "assert mx.allclose(rows[:1] @ weight.T, before[:1], atol=1e-4)\n"
        "print('right')"
    )
    assert python(code=code).stdout.strip() == "right"


def test_without_a_compiler_nothing_changes(python):
    code = (
        "import os\nos.environ['PATH'] = ''\nfrom mlx_fastcpu import few_rows\n"
        "print(few_rows.enable())"
    )
    reason = "products of few rows are the library's: no compiler was found (cc, gcc, clang)"
    assert python(code=code).stdout.strip() == reason
