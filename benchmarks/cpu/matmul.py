"""Matrix products of MLX without and with a BLAS, and of NumPy."""

from collections.abc import Callable

import numpy as np
from turns.timing import Calls

SHAPES = [(256,) * 3, (512,) * 3, (1024,) * 3, (2048,) * 3, (2048, 768, 3072), (4096,) * 3]
LONGEST = 5e10  # operations that stock MLX does in 10 seconds


def prepare(variant: str, tiny: bool) -> Calls:
    """Return one call for each shape (rows, inner, columns)."""
    shapes = [(16, 16, 16), (32, 8, 16)] if tiny else SHAPES
    if variant == "stock":
        shapes = [each for each in shapes if operations(each) < LONGEST]
    measured = {"x".join(map(str, each)): product(each, variant) for each in shapes}
    return Calls(measured, [] if variant == "stock" else list(measured))


def operations(shape: tuple[int, ...]) -> float:
    """Return the number of additions and multiplications."""
    rows, inner, columns = shape
    return 2.0 * rows * inner * columns


def product(shape: tuple[int, ...], variant: str) -> Callable[[], object]:
    """Return a call that multiplies two random matrices."""
    rows, inner, columns = shape
    random = np.random.default_rng(0)
    a = random.standard_normal((rows, inner), np.float32)
    b = random.standard_normal((inner, columns), np.float32)
    if variant == "numpy":
        return lambda: a @ b
    import mlx.core as mx

    left, right = mx.array(a), mx.array(b)
    mx.eval(left, right)
    return lambda: mx.eval(left @ right)
