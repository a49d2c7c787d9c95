"""Softmax and attention: exponentials as powers, row sums by BLAS, few passes over the scores."""

import mlx.core as mx

from mlx_fastcpu.ops._pieces import apart, custom, exp, row_max, row_sum, sum_to_shape

# Large enough to leave nothing of a score, small enough that a row without any allowed position
# becomes the mean of the values, as in MLX, and not NaN.
_FORBIDDEN = -1e9


def softmax(x: mx.array) -> mx.array:
    """Softmax over the last axis; error 3e-7."""
    return _softmax(x.astype(mx.float32)).astype(x.dtype)


def logsumexp(x: mx.array, keepdims: bool = False) -> mx.array:
    """Logarithm of the sum of exponentials over the last axis; relative error 3e-7."""
    found = _logsumexp(x.astype(mx.float32)).astype(x.dtype)
    return found if keepdims else found.squeeze(-1)


def attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None = None
) -> mx.array:
    """Scaled dot product attention, (B, heads, L, D) from q (B, heads, L, D), k and v (B, h, S, D).

    `heads` is a multiple of h. `mask` broadcasts to (B, heads, L, S): boolean (true: attend), or
    added to the scores; "causal" aligns the last query with the last key. Error 3e-6.
    """
    dtype, groups = q.dtype, q.shape[1] // k.shape[1]
    q, k, v = (each.astype(mx.float32) for each in (q, k, v))
    if groups > 1:
        k, v = mx.repeat(k, groups, axis=1), mx.repeat(v, groups, axis=1)
    q = apart(q * scale)
    if mask is None:
        return _attend(q, apart(k), apart(v))[0].astype(dtype)
    added = _added(mask, q.shape[-2], k.shape[-2])
    return _attend_masked(q, apart(k), apart(v), added)[0].astype(dtype)


def _added(mask: mx.array | str, queries: int, keys: int) -> mx.array:
    if isinstance(mask, str):
        if mask != "causal":
            raise ValueError(f"mask must be an array, 'causal' or None, got {mask!r}")
        rows = mx.arange(keys - queries, keys)[:, None]
        mask = mx.arange(keys)[None] <= rows
    if mask.dtype == mx.bool_:
        return mx.where(mask, mx.array(0.0), mx.array(_FORBIDDEN))
    return mask.astype(mx.float32)


@custom
def _softmax(x: mx.array) -> mx.array:
    x = apart(x)
    powers = apart(exp(apart(x - row_max(x))))
    return apart(powers * (1 / row_sum(powers)))


@_softmax.vjp
def _(x: mx.array, gradient: mx.array, output: mx.array) -> mx.array:
    gradient = apart(gradient)
    return apart(output * apart(gradient - row_sum(gradient * output)))


@custom
def _logsumexp(x: mx.array) -> mx.array:
    x = apart(x)
    largest = row_max(x)
    # All of a row at minus infinity is minus infinity, not NaN.
    finite = mx.where(mx.isinf(largest), mx.zeros_like(largest), largest)
    return finite + mx.log(row_sum(exp(apart(x - finite))))


@_logsumexp.vjp
def _(x: mx.array, gradient: mx.array, output: mx.array) -> mx.array:
    return apart(apart(exp(apart(x - output))) * gradient)


def _weigh(scores: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Normalize after the product with v: head_dim columns instead of S to multiply."""
    powers = apart(exp(apart(scores - row_max(scores))))
    share = apart(1 / row_sum(powers))
    return apart((powers @ v) * share), powers, share


def _backward(
    inputs: list[mx.array], gradients: list[mx.array], outputs: list[mx.array]
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Gradients of q, k, v and the scores (Dao et al. 2022, appendix B.2)."""
    q, k, v, *_ = inputs
    output, powers, share = outputs
    gradient = apart(gradients[0])
    weights = apart(powers * share)
    delta = row_sum(gradient * output)
    scores = apart(weights * apart(gradient @ v.swapaxes(-1, -2) - delta))
    transposed = scores.swapaxes(-1, -2)
    return scores @ k, transposed @ q, weights.swapaxes(-1, -2) @ gradient, scores


@custom
def _attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    return _weigh(apart(q @ k.swapaxes(-1, -2)), v)


@_attend.vjp
def _(inputs, gradients, outputs):
    return _backward(inputs, gradients, outputs)[:3]


@custom
def _attend_masked(
    q: mx.array, k: mx.array, v: mx.array, added: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    return _weigh(apart(apart(q @ k.swapaxes(-1, -2)) + added), v)


@_attend_masked.vjp
def _(inputs, gradients, outputs):
    *others, scores = _backward(inputs, gradients, outputs)
    return *others, sum_to_shape(scores, inputs[3].shape)
