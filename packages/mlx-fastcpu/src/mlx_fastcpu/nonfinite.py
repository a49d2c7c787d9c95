"""Return NaN for matrices with NaN or infinity, without calling LAPACK on them.

On such input a fast LAPACK's eigenvalue routine writes out of bounds (the process aborts),
iterations do not end, and factorizations skip non-finite entries and return finite numbers. The
reference LAPACK in MLX's wheels also exits in `eigvals` and hangs in `svd`. All of this depends on
size, position and library.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial, wraps
from typing import Any

import mlx.core as mx

Function = Callable[..., Any]

# What LAPACK supports; MLX raises for others.
DTYPES = (mx.float32, mx.float64, mx.complex64)
# The functions that read all of their first argument, or a triangle, and those that iterate.
WHOLE = ("eig", "eigvals", "svd", "pinv", "qr", "inv", "lu", "lu_factor", "solve", "det", "slogdet")
TRIANGLE = ("cholesky", "cholesky_inv", "tri_inv", "solve_triangular", "eigh", "eigvalsh")
ITERATIVE = ("eig", "eigvals", "svd", "pinv", "eigh", "eigvalsh")


@cache
def install() -> None:
    """Wrap the functions of `mx.linalg` and `mx.random` that call LAPACK, once."""
    for name in (*WHOLE, *TRIANGLE):
        if hasattr(mx.linalg, name):  # some exist in later versions of MLX only
            original = getattr(mx.linalg, name)
            setattr(mx.linalg, name, _guard(original, name in TRIANGLE, name in ITERATIVE))
    mx.linalg.norm = _guard_norm(mx.linalg.norm)
    mx.random.multivariate_normal = _guard_sampling(mx.random.multivariate_normal)


def _guard(original: Function, triangle: bool, iterative: bool) -> Function:
    @wraps(original, updated=())
    def guarded(a: mx.array, *arguments: Any, stream: Any = None, **options: Any) -> Any:
        compute = partial(original, stream=stream)
        if not _is_matrix(a):
            return compute(a, *arguments, **options)
        with _stream_context(stream):
            read = _read_triangle(a, *arguments, **options) if triangle else a
            nan = _nan_unless_finite(read, (-2, -1))
            # Zeros cannot be inverted; the identity needs a static shape, absent in some traces.
            fill = None if iterative else mx.eye(*a.shape[-2:], dtype=a.dtype)
            safe = _replaced_where(nan[..., None, None], a, fill)
            found = compute(safe, *arguments, **options)
            if isinstance(found, mx.array):
                return _add(found, nan)
            return tuple(_add(each, nan) for each in found)

    return guarded


def _guard_norm(original: Function) -> Function:
    """Guard the matrix norms that are computed from singular values."""

    @wraps(original, updated=())
    def norm(
        a: mx.array, /, ord: Any = None, axis: Any = None, keepdims: bool = False, *,
        stream: Any = None,
    ) -> mx.array:  # fmt: skip
        compute = partial(original, ord=ord, axis=axis, keepdims=keepdims, stream=stream)
        axes = range(a.ndim) if axis is None else [axis] if isinstance(axis, int) else [*axis]
        if ord not in ("nuc", 2, -2) or len(axes) != 2 or not _is_matrix(a):
            return compute(a)
        with _stream_context(stream):
            nan = _nan_unless_finite(a, axes)
            found = compute(
                _replaced_where(mx.expand_dims(nan, sorted(i % a.ndim for i in axes)), a)
            )
            return found + nan.reshape(found.shape)

    return norm


def _guard_sampling(original: Function) -> Function:
    """Guard sampling from a covariance, whose singular values MLX computes."""

    @wraps(original, updated=())
    def multivariate_normal(
        mean: mx.array, cov: mx.array, *arguments: Any, stream: Any = None, **options: Any
    ) -> mx.array:
        if not _is_matrix(cov):
            return original(mean, cov, *arguments, stream=stream, **options)
        with _stream_context(stream):
            nan = _nan_unless_finite(cov, (-2, -1))
            safe = _replaced_where(nan[..., None, None], cov)
            found = original(mean, safe, *arguments, stream=stream, **options)
            return found + nan[..., None].astype(found.dtype)

    return multivariate_normal


def _stream_context(stream: Any) -> AbstractContextManager[Any]:
    return nullcontext() if stream is None else mx.stream(stream)


def _is_matrix(a: Any) -> bool:
    return isinstance(a, mx.array) and a.ndim >= 2 and a.dtype in DTYPES


def _read_triangle(
    a: mx.array, *arguments: Any, upper: bool = False, UPLO: str = "L", **_: Any
) -> mx.array:
    """Return the triangle of `a` that a function with these arguments reads."""
    upper = upper or UPLO == "U" or any(each is True or each == "U" for each in arguments)
    return mx.triu(a) if upper else mx.tril(a)


def _nan_unless_finite(a: mx.array, axes: Any) -> mx.array:
    """Return NaN for each matrix with NaN or infinity, and 0 for the others; always real."""
    # x - x is 0 or NaN. Two sums are 7 times faster here than `isfinite(a).all(axes)`.
    first, second = sorted((i % a.ndim for i in axes), reverse=True)
    total = (a - a).sum(second).sum(first - 1)
    return mx.real(total) + mx.imag(total) if a.dtype == mx.complex64 else total


def _replaced_where(nan: mx.array, a: mx.array, fill: mx.array | None = None) -> mx.array:
    return mx.where(mx.isnan(nan), mx.zeros((), a.dtype) if fill is None else fill, a)


def _add(found: mx.array, nan: mx.array) -> mx.array:
    """Return `found` + `nan`, matrix by matrix; integers (pivots) stay."""
    if not mx.issubdtype(found.dtype, mx.inexact):
        return found
    for _ in range(min(found.ndim - nan.ndim, 2)):
        nan = nan[..., None]
    nan = nan.astype(found.dtype)
    # MLX 0.32.4 sets the size of lu_factor's matrix to its number of bytes, so that element-wise
    # operations on it write four times its memory; a copy has the right size.
    found = mx.contiguous(found)
    return found + (nan * (1 + 1j) if found.dtype == mx.complex64 else nan)
