"""Answer matrices that hold NaN or infinity with NaN, before LAPACK sees them.

On such input a fast LAPACK's eigenvalue routine writes outside of its memory (the process
aborts), iterations do not end, and factorizations skip what is not finite and return ordinary
numbers. The reference LAPACK in MLX's wheels does some of it too: it ends the process in `eigvals`
and never returns from `svd`. Both differ by size, position and library; NaN does not.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial, wraps
from typing import Any

import mlx.core as mx

Function = Callable[..., Any]

# What LAPACK supports; anything else is left to MLX, which says so.
DTYPES = (mx.float32, mx.float64, mx.complex64)
# The functions by what of their first argument they read, and those whose routines iterate.
WHOLE = ("eig", "eigvals", "svd", "pinv", "qr", "inv", "lu", "lu_factor", "solve", "det", "slogdet")
TRIANGLE = ("cholesky", "cholesky_inv", "tri_inv", "solve_triangular", "eigh", "eigvalsh")
ITERATIVE = ("eig", "eigvals", "svd", "pinv", "eigh", "eigvalsh")


@cache
def install() -> None:
    """Put a function in front of each in `mx.linalg` that calls LAPACK, and of the like, once."""
    for name in (*WHOLE, *TRIANGLE):
        if hasattr(mx.linalg, name):  # some came with later versions of MLX
            original = getattr(mx.linalg, name)
            setattr(mx.linalg, name, _front(original, name in TRIANGLE, name in ITERATIVE))
    mx.linalg.norm = _front_of_norm(mx.linalg.norm)
    mx.random.multivariate_normal = _front_of_sampling(mx.random.multivariate_normal)


def _front(original: Function, triangle: bool, iterative: bool) -> Function:
    @wraps(original, updated=())
    def front(a: mx.array, *arguments: Any, stream: Any = None, **options: Any) -> Any:
        compute = partial(original, stream=stream)
        if not _is_matrix(a):
            return compute(a, *arguments, **options)
        with _on(stream):
            read = _read_triangle(a, *arguments, **options) if triangle else a
            nan = _nan_unless_finite(read, (-2, -1))
            # Zeros are no matrix to invert; the identity has a shape, which one trace may not have.
            fill = None if iterative else mx.eye(*a.shape[-2:], dtype=a.dtype)
            safe = _replaced_where(nan[..., None, None], a, fill)
            found = compute(safe, *arguments, **options)
            if isinstance(found, mx.array):
                return _add(found, nan)
            return tuple(_add(each, nan) for each in found)

    return front


def _front_of_norm(original: Function) -> Function:
    """The norms of matrices that are made of singular values."""

    @wraps(original, updated=())
    def norm(
        a: mx.array, /, ord: Any = None, axis: Any = None, keepdims: bool = False, *,
        stream: Any = None,
    ) -> mx.array:  # fmt: skip
        compute = partial(original, ord=ord, axis=axis, keepdims=keepdims, stream=stream)
        axes = range(a.ndim) if axis is None else [axis] if isinstance(axis, int) else [*axis]
        if ord not in ("nuc", 2, -2) or len(axes) != 2 or not _is_matrix(a):
            return compute(a)
        with _on(stream):
            nan = _nan_unless_finite(a, axes)
            found = compute(
                _replaced_where(mx.expand_dims(nan, sorted(i % a.ndim for i in axes)), a)
            )
            return found + nan.reshape(found.shape)

    return norm


def _front_of_sampling(original: Function) -> Function:
    """Normal numbers of a covariance, of which MLX takes the singular values."""

    @wraps(original, updated=())
    def multivariate_normal(
        mean: mx.array, cov: mx.array, *arguments: Any, stream: Any = None, **options: Any
    ) -> mx.array:
        if not _is_matrix(cov):
            return original(mean, cov, *arguments, stream=stream, **options)
        with _on(stream):
            nan = _nan_unless_finite(cov, (-2, -1))
            safe = _replaced_where(nan[..., None, None], cov)
            found = original(mean, safe, *arguments, stream=stream, **options)
            return found + nan[..., None].astype(found.dtype)

    return multivariate_normal


def _on(stream: Any) -> AbstractContextManager[Any]:
    return nullcontext() if stream is None else mx.stream(stream)


def _is_matrix(a: Any) -> bool:
    return isinstance(a, mx.array) and a.ndim >= 2 and a.dtype in DTYPES


def _read_triangle(
    a: mx.array, *arguments: Any, upper: bool = False, UPLO: str = "L", **_: Any
) -> mx.array:
    """What a function with these arguments reads of `a`: one triangle."""
    upper = upper or UPLO == "U" or any(each is True or each == "U" for each in arguments)
    return mx.triu(a) if upper else mx.tril(a)


def _nan_unless_finite(a: mx.array, axes: Any) -> mx.array:
    """Return NaN for matrices with NaN or infinity, and 0 for others; without `axes`, real."""
    # x - x is 0 or NaN. Two sums are 7 times as fast here as `isfinite(a).all(axes)`.
    first, second = sorted((i % a.ndim for i in axes), reverse=True)
    total = (a - a).sum(second).sum(first - 1)
    return mx.real(total) + mx.imag(total) if a.dtype == mx.complex64 else total


def _replaced_where(nan: mx.array, a: mx.array, fill: mx.array | None = None) -> mx.array:
    return mx.where(mx.isnan(nan), mx.zeros((), a.dtype) if fill is None else fill, a)


def _add(found: mx.array, nan: mx.array) -> mx.array:
    """Return `found` + `nan`, matrix by matrix; pivots, which are integers, stay."""
    if not mx.issubdtype(found.dtype, mx.inexact):
        return found
    for _ in range(min(found.ndim - nan.ndim, 2)):
        nan = nan[..., None]
    nan = nan.astype(found.dtype)
    # MLX 0.32.4 gives the size of lu_factor's matrix in bytes for numbers, so that an element-wise
    # operation on it writes four times its memory; a copy has the right size.
    found = mx.contiguous(found)
    return found + (nan * (1 + 1j) if found.dtype == mx.complex64 else nan)
