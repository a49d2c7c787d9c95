"""OpenAI's GPT-2, and models of its form such as DistilGPT2 and DialoGPT.

LayerNorm with biases, learned positions, one matrix for queries, keys and values, a GELU in the
MLP. Modules and parameters have transformers' names; its `Conv1D` matrices (in, out) are plain
linear layers (out, in) here, transposed when loaded and saved. Dropout is not applied.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.models.cache import NO_WINDOW, Cache, LayerCache
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.layers import (
    check_positive,
    checkpointed,
    dense_rows,
    segment_mask,
    windowed_attention,
)

ACTIVATIONS = {
    "gelu_new": nn.gelu_approx,  # by tanh
    "gelu_pytorch_tanh": nn.gelu_approx,
    "gelu": nn.gelu,
    "relu": nn.relu,
}


@dataclass(frozen=True)
class GPT2Config:
    """Sizes, under the names of transformers; defaults are those of the smallest GPT-2."""

    vocab_size: int = 50257
    n_positions: int = 1024  # rows of the position embedding: the longest context
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # hidden units of the MLP; None is 4 x n_embd
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True  # the head is the embedding
    model_type: str = "gpt2"
    # Other keys of config.json, kept for saving: they do not affect the computation.
    other_keys: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        check_positive(self, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        if self.n_inner is not None:
            check_positive(self, "n_inner")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}"
            )
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(
                f"activation_function {self.activation_function!r} is not supported, only "
                f"{', '.join(ACTIVATIONS)}"
            )

    @property
    def sequence_len(self) -> int:
        """The longest context in tokens."""
        return self.n_positions


class Attention(nn.Module):
    """Causal attention; `c_attn` gives queries, keys and values."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self._config = config
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def __call__(
        self, x: mx.array, mask: mx.array | str | None, cache: LayerCache | None
    ) -> mx.array:
        """Return (B, T, n_embd) of `x` (B, T, n_embd), which follows `cache`."""
        B, T, _ = x.shape
        heads = self.c_attn(x).reshape(B, T, 3, self._config.n_head, -1)
        q, k, v = heads.transpose(2, 0, 3, 1, 4)  # each (B, heads, T, head_dim)
        scale = 1 / math.sqrt(q.shape[-1])
        if cache:
            y = cache.attend(q, k, v, scale, mask)
        elif mask is None:
            y = windowed_attention(q, k, v, scale, NO_WINDOW)
        else:
            y = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        return self.c_proj(y.swapaxes(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        hidden = config.n_inner or 4 * config.n_embd
        self._activation = ACTIVATIONS[config.activation_function]
        self.c_fc = nn.Linear(config.n_embd, hidden)
        self.c_proj = nn.Linear(hidden, config.n_embd)

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., n_embd) of (..., n_embd)."""
        return self.c_proj(self._activation(self.c_fc(x)))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def __call__(
        self, x: mx.array, mask: mx.array | str | None, cache: LayerCache | None
    ) -> mx.array:
        """Return (B, T, n_embd) of (B, T, n_embd)."""
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class GPT2(Decoder):
    """The model; activations have the dtype of its embedding.

    `checkpoint_blocks` turns on gradient checkpointing of each block.
    """

    def __init__(self, config: GPT2Config, checkpoint_blocks: bool = False):
        super().__init__()
        self.config = config
        self.checkpoint_blocks = checkpoint_blocks
        self.transformer = {
            "wte": nn.Embedding(config.vocab_size, config.n_embd),
            "wpe": nn.Embedding(config.n_positions, config.n_embd),
            "h": [Block(config) for _ in range(config.n_layer)],
            "ln_f": nn.LayerNorm(config.n_embd, config.layer_norm_epsilon),
        }
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def logits(self, hidden_states: mx.array) -> mx.array:
        """Return the logits, float32 (..., vocab_size), of hidden states (..., n_embd)."""
        tied = self.config.tie_word_embeddings
        head = self.transformer["wte"].as_linear if tied else self.lm_head
        return head(hidden_states).astype(mx.float32)

    @property
    def head_weight(self) -> mx.array:
        """The rows of the head, (vocab_size, n_embd); dequantized if they are quantized."""
        tied = self.config.tie_word_embeddings
        return dense_rows(self.transformer["wte"] if tied else self.lm_head)

    def make_cache(self, left_padding: Sequence[int] | None = None) -> Cache:
        """Return an empty cache; `left_padding` counts the padding before each row's prompt."""
        return Cache([NO_WINDOW] * self.config.n_layer, left_padding)

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        """Return the input of the head, (B, T, n_embd); `cache` has the previous tokens.

        `segments` (B, T) numbers packed rows, each of consecutive tokens: a token attends to its
        own segment only, whose positions begin at 0. Raises `ValueError` beyond `n_positions`.
        """
        positions = self._positions(ids.shape[1], cache, segments)
        x = self.transformer["wte"](ids) + self.transformer["wpe"](positions)
        if cache:
            layers, mask = cache.layers, cache.masks(ids.shape[1])[0]
        else:
            layers = [None] * self.config.n_layer
            mask = None if segments is None else segment_mask(segments, NO_WINDOW)
        for block, layer in zip(self.transformer["h"], layers, strict=True):
            run = checkpointed(block) if self.checkpoint_blocks and not cache else block
            x = run(x, mask, layer)
        return self.transformer["ln_f"](x)

    def _positions(self, tokens: int, cache: Cache | None, segments: mx.array | None) -> mx.array:
        """Return the positions, (T,) or (B, T), of this many new tokens."""
        offset = cache.offset if cache else 0
        padding = cache.left_padding if cache else None
        limit = self.config.n_positions
        total = offset + tokens
        if segments is None and total > limit:
            total -= min(cache.padding, default=0) if cache else 0
            if total > limit:
                raise ValueError(f"{total:,} tokens, but the model has {limit:,} positions")
        positions = mx.arange(offset, offset + tokens)
        if segments is not None:
            starts = segments[:, 1:] != segments[:, :-1]
            first = mx.where(starts, positions[1:], 0)
            first = mx.concatenate([mx.zeros((len(segments), 1), mx.int32), first], axis=1)
            # Within the table in any case: reading beyond would read other memory.
            return mx.minimum(positions - mx.cummax(first, axis=1), limit - 1)
        if padding is not None:
            return mx.maximum(positions - padding[:, None], 0)
        return positions
