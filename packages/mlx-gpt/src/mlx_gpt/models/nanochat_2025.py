"""nanochat's GPT from October 2025 to early January 2026, also in mlx-lm and transformers.

Differences from `models.nanochat`: rotary embeddings of base 10,000, attention scores at the usual
scale, no attention windows, value embeddings, mixing scalars, smear or backout.

Parameters have nanochat's names, as in mlx-lm. Weights are cast where they are used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.models.cache import NO_WINDOW, Cache, LayerCache
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.layers import MLP, Linear, check_sizes, checkpointed
from mlx_gpt.models.rope import rotate

LOGIT_CAP = 15.0
NORM_EPS = 2.0**-23  # float32's machine epsilon, PyTorch's default in RMSNorm


@dataclass(frozen=True)
class Nanochat2025Config:
    """Sizes of the model; defaults are those of nanochat's speedrun of October 2025."""

    sequence_len: int = 2048  # in training; not used in the computation
    vocab_size: int = 65536
    n_layer: int = 20
    n_head: int = 10  # query heads
    n_kv_head: int = 10  # key and value heads; each serves n_head / n_kv_head query heads
    n_embd: int = 1280
    rope_theta: float = 10_000.0
    norm_eps: float = NORM_EPS  # nanochat's; 1e-5 in mlx-lm, 1e-6 in transformers

    def __post_init__(self):
        check_sizes(self)

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.n_embd // self.n_head


class Attention(nn.Module):
    """Causal attention with grouped queries and QK norm after the rotary embeddings."""

    def __init__(self, config: Nanochat2025Config):
        super().__init__()
        self._config = config
        kv_dims = config.n_kv_head * config.head_dim
        self.c_q = Linear(config.n_embd, config.n_embd)
        self.c_k = Linear(config.n_embd, kv_dims)
        self.c_v = Linear(config.n_embd, kv_dims)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def __call__(
        self, x: mx.array, mask: mx.array | str | None, cache: LayerCache | None
    ) -> mx.array:
        """Return (B, T, n_embd) of the normalized `x` (B, T, n_embd), which follows `cache`."""
        config = self._config
        B, T, _ = x.shape
        q = self.c_q(x).reshape(B, T, config.n_head, -1)
        k = self.c_k(x).reshape(B, T, config.n_kv_head, -1)
        v = self.c_v(x).reshape(B, T, config.n_kv_head, -1)
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))  # (B, heads, T, head_dim)
        offset = cache.position if cache else 0
        q, k = _rotate(q, config, offset), _rotate(k, config, offset)
        q, k = _norm(q, config), _norm(k, config)
        scale = 1 / math.sqrt(config.head_dim)
        if cache:
            y = cache.attend(q, k, v, scale, mask)
        else:
            y = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        return self.c_proj(y.swapaxes(1, 2).reshape(B, T, -1))


def _rotate(x: mx.array, config: Nanochat2025Config, offset: int | mx.array) -> mx.array:
    # nanochat rotates by minus theta, hence the negative scale.
    return rotate(x, offset, base=config.rope_theta, scale=-1.0)


def _norm(x: mx.array, config: Nanochat2025Config) -> mx.array:
    return mx.fast.rms_norm(x, None, config.norm_eps)


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config: Nanochat2025Config):
        super().__init__()
        self._config = config
        self.attn = Attention(config)
        self.mlp = MLP(config.n_embd)

    def __call__(
        self, x: mx.array, mask: mx.array | str | None, cache: LayerCache | None
    ) -> mx.array:
        """Return (B, T, n_embd) of (B, T, n_embd)."""
        x = x + self.attn(_norm(x, self._config), mask, cache)
        return x + self.mlp(_norm(x, self._config))


class Nanochat2025(Decoder):
    """The model; `dtype` is that of activations and, as in nanochat, of the embeddings.

    `checkpoint_blocks` turns on gradient checkpointing of each block.
    """

    def __init__(
        self,
        config: Nanochat2025Config,
        dtype: mx.Dtype = mx.float32,
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        self.config = config
        self.checkpoint_blocks = checkpoint_blocks
        self._dtype = dtype
        self.transformer = {
            "wte": nn.Embedding(config.vocab_size, config.n_embd),
            "h": [Block(config) for _ in range(config.n_layer)],
        }
        self.lm_head = Linear(config.n_embd, config.vocab_size)

    def logits(self, hidden_states: mx.array) -> mx.array:
        """Return the capped logits, float32 (..., vocab_size), of hidden states (..., n_embd)."""
        return LOGIT_CAP * mx.tanh(self.lm_head(hidden_states).astype(mx.float32) / LOGIT_CAP)

    @property
    def head_weight(self) -> mx.array:
        """The rows of the head, (vocab_size, n_embd)."""
        return self.lm_head.weight

    @property
    def logit_cap(self) -> float | None:
        """The c of logits c tanh(x / c), None without a cap."""
        return LOGIT_CAP

    def make_cache(self, left_padding: Sequence[int] | None = None) -> Cache:
        """Return an empty cache; `left_padding` counts the padding before each row's prompt."""
        return Cache([NO_WINDOW] * self.config.n_layer, left_padding)

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        """Return the input of the head, (B, T, n_embd); `cache` has the previous tokens.

        Raises `ValueError` for `segments`: tokens of nanochat's rows see each other.
        """
        if segments is not None:
            raise ValueError("nanochat's models do not take packed rows with segments")
        x = _norm(self.transformer["wte"](ids).astype(self._dtype), self.config)
        layers = cache.layers if cache else [None] * self.config.n_layer
        mask = cache.masks(ids.shape[1])[0] if cache else "causal"
        for block, layer in zip(self.transformer["h"], layers, strict=True):
            run = checkpointed(block) if self.checkpoint_blocks and not cache else block
            x = run(x, mask, layer)
        return _norm(x, self.config)

    def initialize(self, key: mx.array) -> "Nanochat2025":
        """Draw the weights as nanochat did from January 2026 on; return the model.

        Uniform weights have a standard deviation of n_embd^-0.5; projections into the residual
        stream are 0.
        """
        keys = iter(mx.random.split(key, 4 * self.config.n_layer + 2))
        bound = math.sqrt(3 / self.config.n_embd)
        wte = self.transformer["wte"]
        wte.weight = mx.random.normal(wte.weight.shape, key=next(keys)).astype(self._dtype)
        head = self.lm_head
        head.weight = 0.001 * mx.random.normal(head.weight.shape, key=next(keys))
        for block in self.transformer["h"]:
            for layer in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.c_fc):
                layer.weight = mx.random.uniform(-bound, bound, layer.weight.shape, key=next(keys))
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                layer.weight = mx.zeros_like(layer.weight)
        return self
