"""Softmax, logsumexp and cross-entropy: exponentials as powers, row sums by BLAS."""

import mlx.core as mx

from mlx_fastcpu.ops.activations import softcap
from mlx_fastcpu.ops.primitives import barrier, custom, fused_exp, row_max, row_sum


def softmax(x: mx.array) -> mx.array:
    """Softmax over the last axis; error 3e-7."""
    return _softmax(x.astype(mx.float32)).astype(x.dtype)


def logsumexp(x: mx.array, keepdims: bool = False) -> mx.array:
    """Logarithm of the sum of exponentials over the last axis; relative error 3e-7."""
    found = _logsumexp(x.astype(mx.float32)).astype(x.dtype)
    return found if keepdims else found.squeeze(-1)


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Float32 loss of each target (...) from logits (..., V); error 1e-6 of the largest logit."""
    logits = logits.astype(mx.float32)
    score = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return logsumexp(logits) - score


def softcapped_cross_entropy(logits: mx.array, targets: mx.array, cap: float) -> mx.array:
    """`cross_entropy` of cap * tanh(logits / cap), cap <= 80; error 5e-7 * cap.

    No row maximum is subtracted: exponentials of capped logits cannot overflow.
    """
    if not 0 < cap <= 80:
        raise ValueError(f"cap must be in (0, 80], got {cap}; beyond it exponentials overflow")
    z = softcap(logits.astype(mx.float32), cap)
    return _capped(z.reshape(-1, z.shape[-1]), targets.reshape(-1))[0].reshape(targets.shape)


@custom
def _softmax(x: mx.array) -> mx.array:
    x = barrier(x)
    powers = fused_exp(x - row_max(x))
    return barrier(powers * (1 / row_sum(powers)))


@_softmax.vjp
def _(x: mx.array, gradient: mx.array, output: mx.array) -> mx.array:
    gradient = barrier(gradient)
    return barrier(output * barrier(gradient - row_sum(gradient * output)))


@custom
def _logsumexp(x: mx.array) -> mx.array:
    x = barrier(x)
    largest = row_max(x)
    # A row of minus infinity gives minus infinity, not NaN.
    finite = mx.where(mx.isinf(largest), mx.zeros_like(largest), largest)
    return finite + mx.log(row_sum(fused_exp(x - finite)))


@_logsumexp.vjp
def _(x: mx.array, gradient: mx.array, output: mx.array) -> mx.array:
    return barrier(fused_exp(x - output) * gradient)


@custom
def _capped(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    powers = fused_exp(logits)
    total = row_sum(powers)
    score = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (mx.log(total) - score).squeeze(-1), powers, total


@_capped.vjp
def _(inputs, gradients, outputs):
    _, targets = inputs
    _, powers, total = outputs
    gradient = gradients[0][:, None]
    found = barrier(powers * barrier(gradient / total))
    rows = mx.arange(len(targets))
    return found.at[rows, targets].add(-gradient[:, 0]), mx.zeros_like(targets)
