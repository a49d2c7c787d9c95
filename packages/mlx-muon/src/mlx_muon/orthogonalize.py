"""Orthogonalize matrices by a few matrix products: the core of Muon.

For X = U S V^T each iteration maps the singular values by s -> a s + b s^3 + c s^5 and keeps U
and V. With suitable coefficients five iterations bring all but the smallest close to 1. That
approximates the polar factor U V^T without a decomposition.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import mlx.core as mx

Method = Literal["polar_express", "newton_schulz", "dion", "svd"]
Norm = Literal["frobenius", "schatten4", "aol", "none"]
NORMS = get_args(Norm)
Coefficients = Sequence[tuple[float, float, float]]

# (a, b, c) of each iteration; further iterations repeat the last.
COEFFICIENTS: dict[str, Coefficients] = {
    # Amsel et al. 2025, arXiv 2505.16932: optimal for 5 iterations, safety 2e-2, cushion 2.
    "polar_express": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
    # Jordan 2024, https://kellerjordan.github.io/posts/muon: the steepest at 0; ends in 0.68..1.13.
    "newton_schulz": ((3.4445, -4.7750, 2.0315),) * 5,
    # Ahn et al. 2025 (Dion); the preset of that name in optax.
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}
# Polar Express diverges above about 1.01, so its users divide by slightly more than the norm.
SAFETY = {"polar_express": 1.01}
# At columns = q * rows, iterating on the Gram matrix costs 4 q + 34 against 20 q + 10 (times
# rows^3): equal at q = 1.5.
GRAM_ASPECT = 2
# Two streams cost more than they save below this many multiplications in X X^T, and above this
# many rows unless the BLAS has one thread.
LEAST_SPLIT_WORK = 4_000_000
MOST_SPLIT_ROWS = 64

State = list[mx.array]
Input = TypeVar("Input")

_thread_local = threading.local()  # since MLX 0.32 a stream belongs to the thread that created it


def orthogonalize(
    x: mx.array,
    method: Method | Coefficients = "polar_express",
    steps: int | None = None,
    norm: Norm = "frobenius",
    gram: bool | None = None,
    dtype: mx.Dtype = mx.float32,
    two_streams: bool | None = None,
) -> mx.array:
    """Return the nearest semi-orthogonal matrices to `x`, (..., rows, columns), approximately.

    For a Gaussian matrix twice as wide as high, 5 steps of "polar_express" bring the singular
    values to 0.85..1.15, of "newton_schulz" to 0.65..1.2. Singular values below about 1e-3 of the
    norm, which square matrices have, remain smaller. `method` may also be coefficients (a, b, c)
    for each step; "svd" is exact, runs on the CPU and has no gradient. `steps` defaults to the
    number of coefficients.

    The result does not depend on the scale of `x`, from 1e-30 to 1e30; zero matrices stay 0.
    `norm` first brings the singular values below 1. "schatten4" is closer to the largest of them
    than "frobenius". "aol" divides each row by the root of the row's sum of |X X^T|, which changes
    the directions slightly. "none" expects singular values below 1.

    By default matrices at least twice as wide as high are iterated through X X^T, which is faster
    and equal up to rounding; `gram` overrides that. `dtype` is the dtype of the iteration; half
    precision uses the direct form. The result has the dtype of `x`.

    On a CPU with several cores, a stack (matrices, rows, columns) of small matrices is computed in
    two halves at once. `two_streams=True` does so for matrices of any size, which halves the time
    if the BLAS has one thread and costs time if it has more; `False` never does.

    Raises `ValueError` for fewer than two axes, an unknown `method` or `norm`, or no steps.
    """
    if x.ndim < 2:
        raise ValueError(f"orthogonalize needs matrices, (..., rows, columns); got shape {x.shape}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if method == "svd":
        return _by_svd(x)
    coefficients = coefficients_of(method, steps)
    is_tall = x.shape[-2] > x.shape[-1]
    y = x.astype(mx.float32) if norm == "none" else largest_one(x)
    if is_tall:
        y = y.swapaxes(-1, -2)
    if gram is None:
        gram = y.shape[-1] >= GRAM_ASPECT * y.shape[-2] and dtype == mx.float32
    safety = SAFETY.get(method, 1.0) if isinstance(method, str) else 1.0
    y = _below_one(y, norm, safety).astype(dtype)
    y = (_iterate_gram if gram else _iterate)(y, coefficients, two_streams)
    if is_tall:
        y = y.swapaxes(-1, -2)
    return y.astype(x.dtype)


def coefficients_of(method: str | Coefficients, steps: int | None = None) -> Coefficients:
    """Return (a, b, c) of every step; raises `ValueError` for an unknown name or no steps."""
    if isinstance(method, str):
        if method not in COEFFICIENTS:
            known = ", ".join((*COEFFICIENTS, "svd"))
            raise ValueError(f"method must be one of {known}, or coefficients; got {method!r}")
        method = COEFFICIENTS[method]
    table = [tuple(each) for each in method]
    if not table or any(len(each) != 3 for each in table):
        raise ValueError(f"coefficients must be (a, b, c) for each step, got {method!r}")
    steps = len(table) if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return [table[min(each, len(table) - 1)] for each in range(steps)]  # type: ignore[misc]


def largest_one(x: mx.array) -> mx.array:
    """Return float32 matrices whose largest entry is 1 or -1, so that squares cannot overflow."""
    x = x.astype(mx.float32)
    largest = mx.max(mx.abs(x), axis=(-2, -1), keepdims=True)
    return x / nonzero(largest)


def frobenius_norm(x: mx.array) -> mx.array:
    """Return the root of the sum of squares of each matrix, (..., 1, 1).

    Summed in two steps: MLX adds up sequentially on the CPU, which loses digits over millions of
    entries.
    """
    return mx.sqrt(mx.sum(mx.sum(mx.square(x), axis=-1, keepdims=True), axis=-2, keepdims=True))


def nonzero(x: mx.array) -> mx.array:
    """Return norms to divide by, with 1 instead of 0, so that zeros stay 0."""
    return mx.where(x > 0, x, 1)


def _below_one(y: mx.array, norm: Norm, safety: float) -> mx.array:
    if norm == "none":
        return y
    if norm == "frobenius":
        return y / nonzero(frobenius_norm(y) * safety)
    product = y @ y.swapaxes(-1, -2)
    if norm == "schatten4":
        return y / nonzero(mx.sqrt(frobenius_norm(product)) * safety)
    rows = mx.sum(mx.abs(product), axis=-1, keepdims=True)  # arXiv 2208.03160, theorem 1
    return y / nonzero(mx.sqrt(rows) * safety)


def _iterate(y: mx.array, coefficients: Coefficients, two_streams: bool | None) -> mx.array:
    def start(y: mx.array) -> list[mx.array]:
        # With a transposed factor addmm rounds a single matrix and a stack differently.
        return [mx.contiguous(y)]

    def step(state: list[mx.array], numbers: tuple[float, float, float]) -> list[mx.array]:
        (y,), (a, b, c) = state, numbers
        product = y @ y.swapaxes(-1, -2)
        polynomial = mx.addmm(product, product, product, alpha=c, beta=b)
        return [mx.addmm(y, polynomial, y, alpha=1.0, beta=a)]

    return _concatenate([y for (y,) in _iterate_halves(y, start, step, coefficients, two_streams)])


def _iterate_gram(y: mx.array, coefficients: Coefficients, two_streams: bool | None) -> mx.array:
    """Iterate on R = Y Y^T and collect the factor Q; the result is Q Y.

    Every iteration is Y -> Z Y with Z = a + b R + c R^2, so R -> Z R Z and Q -> Z Q, all of the
    small size. They commute, because they are polynomials of the first R. MLX is lazy: the last R,
    which is not used, is not computed.
    """

    def start(y: mx.array) -> list[mx.array]:
        return [y, y @ y.swapaxes(-1, -2)]

    def step(state: list[mx.array], numbers: tuple[float, float, float]) -> list[mx.array]:
        (y, product, *factor), (a, b, c) = state, numbers
        polynomial = mx.addmm(product, product, product, alpha=c, beta=b)
        half = mx.addmm(product, polynomial, product, alpha=1.0, beta=a)
        following = mx.addmm(half, half, polynomial, alpha=1.0, beta=a)
        if factor:
            return [y, following, mx.addmm(factor[0], polynomial, factor[0], alpha=1.0, beta=a)]
        return [y, following, polynomial + a * mx.eye(y.shape[-2], dtype=y.dtype)]

    states = _iterate_halves(y, start, step, coefficients, two_streams)
    return _concatenate([factor @ y for y, _, factor in states])


def _iterate_halves(
    y: mx.array,
    start: Callable[[mx.array], State],
    step: Callable[[State, Input], State],
    inputs: Sequence[Input],
    two_streams: bool | None,
) -> list[State]:
    """Return `step(... step(start(y), inputs[0]) ..., inputs[-1])`, for each half of `y` if split.

    MLX computes one stream in one thread, and a BLAS uses more only for large products. A second
    stream for half of the matrices halves the time if the BLAS has one thread, and saves 30 % for
    matrices of 64 x 64 if it has two.
    """
    if not _pays_to_split(y, two_streams):
        state = start(y)
        for each in inputs:
            state = step(state, each)
        return [state]
    if not hasattr(_thread_local, "stream"):
        _thread_local.stream = mx.new_stream(mx.cpu)
    second = _thread_local.stream
    half = len(y) // 2
    state = start(mx.contiguous(y[:half]))
    with mx.stream(second):
        other = start(mx.contiguous(y[half:]))
    for index, each in enumerate(inputs):
        state = step(state, each)
        with mx.stream(second):
            other = step(other, each)
        if index < len(inputs) - 1:
            # MLX schedules depth first and only a few operations ahead: without this dependency it
            # would compute one half after the other.
            state = mx.depends(state, other)
    return [state, other]


def _pays_to_split(y: mx.array, two_streams: bool | None) -> bool:
    if mx.default_device().type != mx.cpu or y.ndim != 3 or len(y) < 2 or _cores() < 2:
        return False
    if two_streams is None:
        return y.size * y.shape[-2] >= LEAST_SPLIT_WORK and y.shape[-2] <= MOST_SPLIT_ROWS
    return two_streams


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _concatenate(stacks: list[mx.array]) -> mx.array:
    return mx.concatenate(stacks) if len(stacks) > 1 else stacks[0]


def _by_svd(x: mx.array) -> mx.array:
    u, s, v = mx.linalg.svd(largest_one(x), stream=mx.cpu)
    rank = s.shape[-1]
    # If x is 0 up to rounding, the direction is arbitrary: keep 0.
    kept = (s > s[..., :1] * 1e-6).astype(mx.float32)
    return ((u[..., :rank] * kept[..., None, :]) @ v[..., :rank, :]).astype(x.dtype)
