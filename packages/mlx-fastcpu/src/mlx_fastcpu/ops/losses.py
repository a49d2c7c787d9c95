"""Cross-entropy over large vocabularies."""

import mlx.core as mx

from mlx_fastcpu.ops._pieces import apart, custom, exp, row_sum
from mlx_fastcpu.ops.activations import softcap as capped
from mlx_fastcpu.ops.attention import logsumexp


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Loss of each target (...) from logits (..., V), float32; error 1e-6 of the largest logit."""
    logits = logits.astype(mx.float32)
    score = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return logsumexp(logits) - score


def softcapped_cross_entropy(logits: mx.array, targets: mx.array, cap: float) -> mx.array:
    """`cross_entropy` of cap * tanh(logits / cap), cap <= 80; error 5e-7 * cap.

    Capped logits need no maximum: their exponentials cannot overflow.
    """
    if not 0 < cap <= 80:
        raise ValueError(f"cap must be in (0, 80], got {cap}; beyond it exponentials overflow")
    z = capped(logits.astype(mx.float32), cap)
    return _bounded(z.reshape(-1, z.shape[-1]), targets.reshape(-1))[0].reshape(targets.shape)


@custom
def _bounded(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    powers = apart(exp(apart(logits)))
    total = row_sum(powers)
    score = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (mx.log(total) - score).squeeze(-1), powers, total


@_bounded.vjp
def _(inputs, gradients, outputs):
    _, targets = inputs
    _, powers, total = outputs
    gradient = gradients[0][:, None]
    found = apart(powers * apart(gradient / total))
    rows = mx.arange(len(targets))
    return found.at[rows, targets].add(-gradient[:, 0]), mx.zeros_like(targets)
