"""nanochat's GPT as of July 2026 (https://github.com/karpathy/nanochat).

Differences from a plain GPT:
- rotary embeddings of base 100,000, QK norm after them, attention scores 1.44 times larger
- RMSNorm without parameters, also right after the token embedding
- smear: each token's embedding gets a gated share of the previous one
- value embeddings in every second layer, gated per head
- each block's input mixes the residual stream with the first embedding
- attention windows of a quarter of the sequence in most layers
- squared ReLU
- backout: a multiple of the middle layer's output is subtracted before the head
- untied head, logits capped at 15

Parameters have nanochat's names, except that the value embeddings are a list without gaps
(`models.formats` translates). Weights are float32 and cast where they are used, as in nanochat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.models.cache import Cache, LayerCache
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.layers import MLP, Linear, check_sizes, checkpointed, windowed_attention
from mlx_gpt.models.rope import rotate

ROPE_BASE = 100_000.0
LOGIT_CAP = 15.0
# Factor of attention scores beyond 1 / sqrt(head_dim): 1.2 each for queries and keys.
SHARPNESS = 1.44
SMEAR_CHANNELS = 24
GATE_CHANNELS = 12
NORM_EPS = 2.0**-23  # float32's machine epsilon, PyTorch's default in RMSNorm


@dataclass(frozen=True)
class NanochatConfig:
    """Sizes of the model; `window_pattern` repeats over the layers, the last is always L."""

    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6  # query heads
    n_kv_head: int = 6  # key and value heads; each serves n_head / n_kv_head query heads
    n_embd: int = 768
    window_pattern: str = "SSSL"  # L: the whole sequence, S: a quarter of it
    model_type: str = "nanochat"

    def __post_init__(self):
        check_sizes(self)
        if not self.window_pattern or set(self.window_pattern.upper()) - set("SL"):
            raise ValueError(f"window_pattern must be made of S and L, got {self.window_pattern!r}")
        if self.n_embd < SMEAR_CHANNELS:
            raise ValueError(f"n_embd must be at least {SMEAR_CHANNELS}, got {self.n_embd}")

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embeddings and the head: a multiple of 64."""
        return -(-self.vocab_size // 64) * 64

    @property
    def windows(self) -> list[int]:
        """Number of previous tokens that a token attends to, per layer."""
        short = math.ceil(self.sequence_len / 4 / 128) * 128
        pattern = self.window_pattern.upper()
        letters = [pattern[i % len(pattern)] for i in range(self.n_layer - 1)] + ["L"]
        return [self.sequence_len if letter == "L" else short for letter in letters]

    @property
    def value_embedding_layers(self) -> list[int]:
        """Every second layer, including the last."""
        return [i for i in range(self.n_layer) if i % 2 == (self.n_layer - 1) % 2]


def norm(x: mx.array) -> mx.array:
    """RMSNorm over the last axis, without parameters."""
    return mx.fast.rms_norm(x, None, NORM_EPS)


class Attention(nn.Module):
    """Causal attention with windows, grouped queries and gated value embeddings."""

    def __init__(self, config: NanochatConfig, layer: int):
        super().__init__()
        self._config = config
        self._window = config.windows[layer]
        kv_dims = config.n_kv_head * config.head_dim
        self.c_q = Linear(config.n_embd, config.n_embd)
        self.c_k = Linear(config.n_embd, kv_dims)
        self.c_v = Linear(config.n_embd, kv_dims)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        if layer in config.value_embedding_layers:
            self.ve_gate = Linear(GATE_CHANNELS, config.n_kv_head)

    def __call__(
        self,
        x: mx.array,
        value_embedding: mx.array | None,
        mask: mx.array | str | None,
        cache: LayerCache | None,
    ) -> mx.array:
        """Return (B, T, n_embd) of the normalized `x` (B, T, n_embd).

        `value_embedding` (B, T, kv_heads * head_dim) in layers that have one; `mask` is used only
        with a `cache`.
        """
        config = self._config
        B, T, _ = x.shape
        q = self.c_q(x).reshape(B, T, config.n_head, -1)
        k = self.c_k(x).reshape(B, T, config.n_kv_head, -1)
        v = self.c_v(x).reshape(B, T, config.n_kv_head, -1)
        if value_embedding is not None:
            gate = 3 * mx.sigmoid(self.ve_gate(x[..., :GATE_CHANNELS]))  # (B, T, kv_heads)
            v = v + gate[..., None] * value_embedding.reshape(v.shape)
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))  # (B, heads, T, head_dim)
        offset = cache.position if cache else 0
        q, k = norm(_rotate(q, offset)), norm(_rotate(k, offset))
        scale = SHARPNESS / math.sqrt(config.head_dim)
        if cache:
            y = cache.attend(q, k, v, scale, mask)
        else:
            y = windowed_attention(q, k, v, scale, self._window)
        return self.c_proj(y.swapaxes(1, 2).reshape(B, T, -1))


def _rotate(x: mx.array, offset: int | mx.array) -> mx.array:
    # nanochat rotates by minus theta, hence the negative scale.
    return rotate(x, offset, base=ROPE_BASE, scale=-1.0)


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config: NanochatConfig, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config.n_embd)

    def __call__(
        self,
        x: mx.array,
        x0: mx.array,
        mix: tuple[mx.array, mx.array],
        value_embedding: mx.array | None,
        mask: mx.array | str | None,
        cache: LayerCache | None,
    ) -> mx.array:
        """Return (B, T, n_embd) from `x` and the first embedding `x0`, weighted by `mix`."""
        x = mix[0] * x + mix[1] * x0
        x = x + self.attn(norm(x), value_embedding, mask, cache)
        return x + self.mlp(norm(x))


class Nanochat(Decoder):
    """The model; `dtype` is that of activations and, as in nanochat, of the embeddings.

    `checkpoint_blocks` turns on gradient checkpointing of each block: about a third more work for a
    fraction of the memory.
    """

    def __init__(
        self,
        config: NanochatConfig,
        dtype: mx.Dtype = mx.float32,
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        self.config = config
        self.checkpoint_blocks = checkpoint_blocks
        self._dtype = dtype
        with_values = config.value_embedding_layers
        rows, kv_dims = config.padded_vocab_size, config.n_kv_head * config.head_dim
        self.transformer = {
            "wte": nn.Embedding(rows, config.n_embd),
            "h": [Block(config, i) for i in range(config.n_layer)],
        }
        self.lm_head = Linear(config.n_embd, rows)
        self.resid_lambdas = mx.ones(config.n_layer)
        self.x0_lambdas = mx.zeros(config.n_layer)
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_lambda = mx.zeros(1)
        self.backout_lambda = mx.full(1, 0.2)
        self.value_embeds = [nn.Embedding(rows, kv_dims) for _ in with_values]

    def logits(self, hidden_states: mx.array) -> mx.array:
        """Return the capped logits, float32 (..., vocab_size), of hidden states (..., n_embd)."""
        logits = hidden_states @ self.head_weight.astype(hidden_states.dtype).T
        return LOGIT_CAP * mx.tanh(logits.astype(mx.float32) / LOGIT_CAP)

    @property
    def head_weight(self) -> mx.array:
        """The head without padding rows, (vocab_size, n_embd)."""
        return self.lm_head.weight[: self.config.vocab_size]

    @property
    def logit_cap(self) -> float | None:
        """The c of logits c tanh(x / c), None without a cap."""
        return LOGIT_CAP

    def make_cache(self, left_padding: Sequence[int] | None = None) -> Cache:
        """Return an empty cache; `left_padding` counts the padding before each row's prompt."""
        return Cache(self.config.windows, left_padding)

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        """Return the input of the head, (B, T, n_embd); `cache` has the previous tokens.

        Raises `ValueError` for `segments`: tokens of nanochat's rows see each other.
        """
        if segments is not None:
            raise ValueError("nanochat's models do not take packed rows with segments")
        config = self.config
        x = norm(self.transformer["wte"](ids).astype(self._dtype))
        x = self._smear(x, cache)
        x0 = x
        masks = cache.masks(ids.shape[1]) if cache else [None] * config.n_layer
        values = iter(self.value_embeds)
        middle = x
        for i, block in enumerate(self.transformer["h"]):
            mix = self.resid_lambdas[i].astype(x.dtype), self.x0_lambdas[i].astype(x.dtype)
            value = None
            if i in config.value_embedding_layers:
                value = next(values)(ids).astype(x.dtype)
            layer_cache = cache.layers[i] if cache else None
            run = checkpointed(block) if self.checkpoint_blocks and not cache else block
            x = run(x, x0, mix, value, masks[i], layer_cache)
            if i == config.n_layer // 2:
                middle = x
        return norm(x - self.backout_lambda.astype(x.dtype) * middle)

    def _smear(self, x: mx.array, cache: Cache | None) -> mx.array:
        """Add to each embedding a gated share of the previous one."""
        if cache:
            [read] = cache.embeddings.append([x[:, None]])
            past = read[:, 0, :-1]  # (B, T, n_embd), or without the first token's
        else:
            past = x[:, :-1]
        before = past
        if past.shape[1] < x.shape[1]:  # nothing is before the first token
            before = mx.concatenate([mx.zeros_like(x[:, :1]), past], axis=1)
        gate = self.smear_lambda.astype(x.dtype) * mx.sigmoid(
            self.smear_gate(x[..., :SMEAR_CHANNELS])
        )
        if cache and cache.left_padding is not None:
            positions = mx.arange(cache.offset, cache.offset + x.shape[1])
            gate = gate * (positions > cache.left_padding[:, None])[..., None].astype(x.dtype)
        return x + gate * before

    def initialize(self, key: mx.array) -> "Nanochat":
        """Draw the weights as nanochat does; equal keys give equal weights. Return the model.

        Uniform weights have a standard deviation of n_embd^-0.5. Projections into the residual
        stream are 0, so that every block starts as the identity.
        """
        config, blocks = self.config, self.transformer["h"]
        gates = [self.smear_gate, *(each.attn.ve_gate for each in blocks if "ve_gate" in each.attn)]
        keys = iter(mx.random.split(key, 4 * len(blocks) + 2 + len(self.value_embeds) + len(gates)))
        bound = math.sqrt(3 / config.n_embd)

        def uniform(module: Any, low: float, high: float) -> None:
            module.weight = mx.random.uniform(low, high, module.weight.shape, key=next(keys))

        def normal(module: Any, deviation: float) -> None:
            module.weight = deviation * mx.random.normal(module.weight.shape, key=next(keys))

        normal(self.transformer["wte"], 0.8)
        normal(self.lm_head, 0.001)
        for block in blocks:
            for layer in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
                uniform(layer, -bound, bound)
            uniform(block.mlp.c_fc, -0.4 * bound, 0.4 * bound)
        for embedding in self.value_embeds:
            uniform(embedding, -bound, bound)
        for gate in gates:
            uniform(gate, 0.0, 0.02)
        depth = mx.arange(config.n_layer) / max(config.n_layer - 1, 1)
        self.resid_lambdas = 1.15 - 0.10 * depth
        self.x0_lambdas = 0.20 - 0.15 * depth
        for embedding in [self.transformer["wte"], *self.value_embeds]:
            embedding.weight = embedding.weight.astype(self._dtype)
        return self
