"""Cross-entropy of a language model's head, in chunks: the logits of a batch never exist at once.

With a vocabulary of 32,768, the logits of 32 rows of 2,048 tokens take 8 GiB, and their gradient
another 8 GiB. Here each chunk of tokens goes through the head, the softmax and the backward pass
before the next one starts.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_gpt.data import IGNORE
from mlx_gpt.models.layers import checkpointed, dense_rows

Logits = Callable[[mx.array], mx.array]

# Logits computed at once. Smaller chunks cost more additions to the head's gradient.
CHUNK_LOGITS = 1 << 24
# With a frozen head there are no such additions. A chunk's logits exist several times at once.
FROZEN_CHUNK_LOGITS = 1 << 20
FROZEN_CHUNK_TOKENS = 128  # at least, however large the vocabulary is: it is read for each chunk


def token_losses(
    hidden: mx.array, weight: mx.array, targets: mx.array, cap: float | None = None
) -> mx.array:
    """Return the loss of each token in nats, float32, 0 where the target is -1; no gradient.

    `hidden` is (..., D), `weight` (V, D), `targets` (...). Logits are capped to c tanh(x / c).
    """
    flat, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    losses: list[mx.array] = []
    for begin, end in _chunks(labels.size, weight.shape[0]):
        x = _wait_for(flat[begin:end], losses[-1:])
        logits = _logits(x, weight, cap)
        losses.append(_losses(logits, labels[begin:end]))
    return mx.concatenate(losses).reshape(targets.shape)


def head_losses(model, hidden: mx.array, targets: mx.array) -> mx.array:
    """Return the losses that `target_losses` has, in chunks too; no gradient."""
    flat, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    losses: list[mx.array] = []
    for begin, end in _chunks(labels.size, model.config.vocab_size):
        x = _wait_for(flat[begin:end], losses[-1:])
        losses.append(_losses(model.logits(x), labels[begin:end]))
    return mx.concatenate(losses).reshape(targets.shape)


def batch_loss(model, batch: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
    """Return the sum of the losses of a batch's targets, and their number, with gradients.

    `inputs` are (B, T); `positions` (B, n) are those of the `targets` (B, n), by default all. Only
    they go through the head. `segments` (B, T) are of packed rows.
    """
    hidden, targets = target_states(model, batch), batch["targets"]
    if _is_trained_matrix(head_module(model)):
        loss = loss_sum(hidden, model.head_weight, targets, cap=model.logit_cap)
    else:
        loss = target_losses(model, hidden, targets).sum()
    return loss, (targets != IGNORE).sum()


def target_states(model, batch: dict[str, mx.array]) -> mx.array:
    """Return the hidden states (B, n, D) at the positions of a batch's targets."""
    packed = {"segments": batch["segments"]} if "segments" in batch else {}
    hidden = model.hidden_states(batch["inputs"], **packed)
    if (positions := batch.get("positions")) is None:
        return hidden
    B, T, D = hidden.shape
    places = positions + T * mx.arange(B)[:, None]
    return hidden.reshape(B * T, D)[places.reshape(-1)].reshape(B, -1, D)


def head_module(model) -> nn.Module:
    """Return the layer of the head: a matrix of its own, or the embedding."""
    if "lm_head" in model:
        return model["lm_head"]
    body = model["model"] if "model" in model else model["transformer"]
    return body["embed_tokens"] if "embed_tokens" in body else body["wte"]


def target_losses(model, hidden: mx.array, targets: mx.array) -> mx.array:
    """Return the loss of each token in nats, float32, 0 where the target is `IGNORE`.

    With gradients for `hidden` (..., D), `targets` (...), and for the head if it is trained. Of a
    frozen head, which may be quantized, the gradient is never computed, and that of `hidden` in the
    forward pass; the logits of a trained one are computed again in the backward pass.
    """
    flat, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    head = head_module(model)
    if tree_flatten(head.trainable_parameters()):
        losses = _trained_head_losses(head, model.logits, flat, labels)
    else:
        losses = _frozen_head_losses(_frozen_logits(model, head), flat, labels)
    return losses.reshape(targets.shape)


def loss_sum(
    hidden: mx.array,
    weight: mx.array,
    targets: mx.array,
    token_weights: mx.array | None = None,
    cap: float | None = None,
) -> mx.array:
    """Return the sum of the tokens' losses, each times its weight, with gradients.

    Shapes as in `token_losses`; `token_weights` has the shape of `targets` (default 1) and gets no
    gradient. The gradients for `hidden` and `weight` are computed in the forward pass, so that
    logits are neither stored nor recomputed. If no gradient is needed, call `token_losses`.
    """
    flat, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    weights = (labels != IGNORE).astype(mx.float32)
    if token_weights is not None:
        weights = weights * token_weights.reshape(-1).astype(mx.float32)

    @mx.custom_function
    def total(flat: mx.array, weight: mx.array, weights: mx.array, labels: mx.array):
        return _forward(flat, weight, weights, labels, cap)

    @total.vjp
    def total_vjp(primals, cotangents, outputs):
        scale, (_, for_flat, for_weight) = cotangents[0], outputs
        flat, weight, weights, labels = primals
        return (
            (scale * for_flat).astype(flat.dtype),
            (scale * for_weight).astype(weight.dtype),
            mx.zeros_like(weights),
            mx.zeros_like(labels),
        )

    value, *_ = total(flat, weight, mx.stop_gradient(weights), labels)  # type: ignore[misc]
    return value


def _forward(
    flat: mx.array, weight: mx.array, weights: mx.array, labels: mx.array, cap: float | None
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the sum of losses and its gradients for `flat` and `weight`."""
    total = mx.array(0.0)
    for_weight = mx.zeros(weight.shape)
    pieces: list[mx.array] = []
    for begin, end in _chunks(labels.size, weight.shape[0]):
        x = _wait_for(flat[begin:end], [total, for_weight, pieces[-1]] if pieces else [])
        chosen, scale = labels[begin:end], weights[begin:end]
        logits = _logits(x, weight, cap)
        total = total + (_losses(logits, chosen) * scale).sum()
        change = _logit_gradient(logits, chosen, scale, cap).astype(x.dtype)
        pieces.append(change @ weight.astype(x.dtype))
        for_weight = for_weight + (change.T @ x).astype(mx.float32)
    return total, mx.concatenate(pieces), for_weight


class _HeadLosses(nn.Module):
    """The losses of some tokens; its parameters are those of the head."""

    def __init__(self, head: nn.Module, logits: Logits):
        super().__init__()
        self.head, self._logits = head, logits

    def __call__(self, x: mx.array, labels: mx.array) -> mx.array:
        return _losses(self._logits(x), labels)


def _trained_head_losses(
    head: nn.Module, logits: Logits, flat: mx.array, labels: mx.array
) -> mx.array:
    run, losses = checkpointed(_HeadLosses(head, logits)), []
    for begin, end in _chunks(labels.size, logits(flat[:1]).shape[-1]):
        losses.append(run(_wait_for(flat[begin:end], losses[-1:]), labels[begin:end]))
    return mx.concatenate(losses)


def _frozen_logits(model, head: nn.Module) -> Logits:
    """Return the function from hidden states (N, D) to logits, float32 (N, V).

    On a CPU, where products dequantize anyway, a quantized matrix is dequantized once for all
    chunks and both passes, and not once for each.
    """
    is_matrix = isinstance(head, nn.QuantizedLinear | nn.QuantizedEmbedding) and "bias" not in head
    if not is_matrix or mx.default_device() != mx.cpu:
        return model.logits
    weight = dense_rows(head)
    return lambda x: _logits(x, weight, model.logit_cap)


def _frozen_head_losses(logits: Logits, flat: mx.array, labels: mx.array) -> mx.array:
    @mx.custom_function
    def losses_of(flat: mx.array, labels: mx.array):
        losses: list[mx.array] = []
        pieces: list[mx.array] = []
        size = max(FROZEN_CHUNK_TOKENS, FROZEN_CHUNK_LOGITS // logits(flat[:1]).shape[-1])
        for begin in range(0, labels.size, size):
            end = begin + size
            x = _wait_for(flat[begin:end], [losses[-1], pieces[-1]] if pieces else [])
            chosen = labels[begin:end]
            found, change = _losses_and_gradient(logits(x), chosen)
            losses.append(found)
            pieces.append(mx.vjp(logits, [x], [change])[1][0])
        return mx.concatenate(losses), mx.concatenate(pieces)

    @losses_of.vjp
    def losses_vjp(primals, cotangents, outputs):
        for_flat = cotangents[0][:, None] * outputs[1]
        return for_flat.astype(primals[0].dtype), mx.zeros_like(primals[1])

    return losses_of(flat, labels)[0]  # type: ignore[index]


def _is_trained_matrix(head: nn.Module) -> bool:
    return "weight" in head and "weight" in head.trainable_parameters()


def _chunks(tokens: int, vocabulary: int) -> list[tuple[int, int]]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return [(begin, min(begin + size, tokens)) for begin in range(0, tokens, size)]


def _wait_for(x: mx.array, results: list[mx.array]) -> mx.array:
    # The logits of a chunk must wait for the results of the chunk before; otherwise MLX computes
    # the logits of many chunks at once.
    return mx.depends([x], results)[0] if results else x


def _logits(x: mx.array, weight: mx.array, cap: float | None) -> mx.array:
    logits = (x @ weight.astype(x.dtype).T).astype(mx.float32)
    return logits if cap is None else cap * mx.tanh(logits / cap)


def _losses(logits: mx.array, labels: mx.array) -> mx.array:
    known = mx.maximum(labels, 0)[:, None]
    losses = mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, known, axis=-1)[:, 0]
    return mx.where(labels == IGNORE, 0.0, losses)


def _losses_and_gradient(logits: mx.array, labels: mx.array) -> tuple[mx.array, mx.array]:
    """Return the losses (N,) and their gradients for the logits (N, V), with one exponential.

    The likeliest token's chance is at least 1 / V, so that log sum exp = logit - log chance of it
    is as exact as `logsumexp`.
    """
    chances = mx.softmax(logits, axis=-1)
    total = logits.max(axis=-1) - mx.log(chances.max(axis=-1))
    known = mx.maximum(labels, 0)[:, None]
    is_target = labels != IGNORE
    losses = total - mx.take_along_axis(logits, known, axis=-1)[:, 0]
    vocabulary = mx.arange(logits.shape[-1])
    change = (chances - (labels[:, None] == vocabulary)) * is_target[:, None]
    return mx.where(is_target, losses, 0.0), change


def _logit_gradient(
    logits: mx.array, labels: mx.array, scale: mx.array, cap: float | None
) -> mx.array:
    """Return the gradient for the logits before the cap: (softmax - one-hot) (1 - (y / c)^2)."""
    vocabulary = mx.arange(logits.shape[-1])
    change = mx.softmax(logits, axis=-1) - (labels[:, None] == vocabulary)
    if cap is not None:
        change = change * (1 - mx.square(logits / cap))
    return change * scale[:, None]
