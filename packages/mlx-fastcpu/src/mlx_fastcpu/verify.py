"""Small computations with known answers: does a library, and MLX through it, compute right?"""

import ctypes
import time
from collections.abc import Callable

import numpy as np


def has_32_bit_integers(sgetrf: Callable[..., object]) -> bool:
    """Tell whether this LAPACK routine works, with LP64 integers, by calling it without MLX.

    The integers passed are 64 bits wide with a small value, which both kinds of library read
    alike; the pivots they write differ. So a library of the wrong kind answers and does not crash.
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
    # Rows 1 and 3 change places, then rows 2 and 3: U is diagonal, L the identity.
    right_pivots = pivots.tolist() == [3, 3, 3, 0, 0, 0]
    return right_pivots and np.array_equal(matrix, np.diag([8, 2, 4]))


def wrong_results() -> str | None:
    """Return the name of the first MLX computation that disagrees with NumPy, `None` if none does.

    The inputs differ in each call, so that a buffer of an earlier call can never hold the answer.
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

    # Small enough to stay on one thread: threads that wait for a busy core would cost a second.
    matrix = left[:16, :16].astype(np.float32)
    with mx.stream(mx.cpu):
        _, singular, _ = mx.linalg.svd(mx.array(matrix))
        q, r = mx.linalg.qr(mx.array(matrix))
    if not np.allclose(np.array(singular), np.linalg.svd(matrix, compute_uv=False), atol=1e-3):
        return "singular value decomposition"
    if not np.allclose(np.array(q) @ np.array(r), matrix, atol=1e-3):
        return "QR decomposition"
    return None


def matmul_gflops(size: int = 512, budget: float = 0.05) -> float:
    """Return the best speed of an MLX float32 matrix product on the CPU, in GFLOP/s.

    Takes about `budget` seconds, and at least two products (0.1 s with the reference BLAS): the
    first starts the library's threads, and on a busy machine single ones say little.
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
