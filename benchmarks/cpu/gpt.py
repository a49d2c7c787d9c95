"""A nanochat-like GPT in plain MLX, as a user would write it.

Rotary positions, then normalized queries and keys; RMSNorm without weights; squared ReLU; untied
head; soft-capped logits. Every MLX function is looked up when it is called. `fast_loss` takes the
cap and the loss from `mlx_fastcpu.ops`: the one line a model for this backend changes.
"""

import mlx.core as mx
import mlx.nn as nn

from cpu.sizes import Size
from mlx_fastcpu import ops

EPS = 1e-6
SOFTCAP = 15.0


class GPT(nn.Module):
    """Token ids (B, L) to logits (B, L, vocab), or with targets (B, L) to the sum of losses."""

    def __init__(self, size: Size, fast_loss: bool = False):
        super().__init__()
        self.fast_loss = fast_loss
        self.embedding = nn.Embedding(size.vocab, size.width)
        self.layers = [Layer(size) for _ in range(size.layers)]
        self.head = nn.Linear(size.width, size.vocab, bias=False)

    def __call__(self, ids: mx.array, targets: mx.array | None = None) -> mx.array:
        x = mx.fast.rms_norm(self.embedding(ids), None, EPS)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(mx.fast.rms_norm(x, None, EPS))
        if self.fast_loss and targets is not None:
            return ops.softcapped_cross_entropy(logits, targets, SOFTCAP).sum()
        if self.fast_loss:
            return ops.softcap(logits, SOFTCAP)
        logits = SOFTCAP * mx.tanh(logits / SOFTCAP)
        if targets is None:
            return logits
        # In here, so that patching the model reaches the loss too.
        return nn.losses.cross_entropy(logits, targets, reduction="sum")


class Layer(nn.Module):
    """Attention, then the two-layer network, each on a normalized input and added to the stream."""

    def __init__(self, size: Size):
        super().__init__()
        self.attention = Attention(size)
        self.up = nn.Linear(size.width, size.inner, bias=False)
        self.down = nn.Linear(size.inner, size.width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attention(mx.fast.rms_norm(x, None, EPS))
        return x + self.down(nn.relu2(self.up(mx.fast.rms_norm(x, None, EPS))))


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, size: Size):
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.width, size.width, bias=False)
        self.key = nn.Linear(size.width, size.width, bias=False)
        self.value = nn.Linear(size.width, size.width, bias=False)
        self.output = nn.Linear(size.width, size.width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        B, L, D = x.shape
        queries, keys, values = (
            project(x).reshape(B, L, self.heads, -1).transpose(0, 2, 1, 3)  # (B, heads, L, D_head)
            for project in (self.query, self.key, self.value)
        )
        queries, keys = (
            mx.fast.rms_norm(
                mx.fast.rope(
                    each, each.shape[-1], traditional=False, base=10000.0, scale=1.0, offset=0
                ),
                None,
                EPS,
            )
            for each in (queries, keys)
        )
        context = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=queries.shape[-1] ** -0.5, mask="causal"
        )
        return self.output(context.transpose(0, 2, 1, 3).reshape(B, L, D))
