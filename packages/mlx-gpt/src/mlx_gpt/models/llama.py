"""The Llama family by one config: Llama 1 to 3, Mistral, Qwen2, Qwen3, SmolLM2 and SmolLM3.

- RMSNorm before attention and MLP, no biases but those that the config asks for
- rotary embeddings, "rotate half", in all layers or, in SmolLM3, in three of four
- grouped queries; Qwen3 normalizes each head's queries and keys before the rotation
- a window of attention in all layers (Mistral), in some (Qwen2), or in none
- an MLP of down(silu(gate(x)) * up(x)); the head is the embedding or a matrix of its own

Modules and parameters have transformers' names. Dropout is not applied.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
from mlx_gpt.models.rope import RopeConfig, make_rotary


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes and variants; names are transformers' where it has one."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int  # each serves num_attention_heads / num_key_value_heads query heads
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    qkv_bias: bool = False
    output_bias: bool = False  # of the projection after attention
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False  # the head is the embedding
    # Of each layer, empty for all layers alike: tokens before a token that it sees; rotated or not.
    windows: tuple[int, ...] = ()
    rotated: tuple[bool, ...] = ()
    model_type: str = "llama"
    # Other keys of config.json, kept for saving: they do not affect the computation.
    other_keys: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        check_positive(
            self,
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
            *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
        )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                "num_attention_heads must be a multiple of num_key_value_heads, got "
                f"{self.num_attention_heads} and {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim}")
        for name, each in (("windows", self.windows), ("rotated", self.rotated)):
            if each and len(each) != self.num_hidden_layers:
                raise ValueError(
                    f"{name} must have {self.num_hidden_layers} entries, got {len(each)}"
                )

    @property
    def sequence_len(self) -> int:
        """The longest context in tokens."""
        return self.max_position_embeddings

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """Tokens before a token that it attends to, of each layer."""
        return self.windows or (NO_WINDOW,) * self.num_hidden_layers

    @property
    def layer_rotated(self) -> tuple[bool, ...]:
        """Of each layer, whether it has rotary embeddings."""
        return self.rotated or (True,) * self.num_hidden_layers


class Attention(nn.Module):
    """Causal attention with grouped queries."""

    def __init__(self, config: LlamaConfig, layer: int, rotate: Callable | None):
        super().__init__()
        self._config, self._window, self._rotate = config, config.layer_windows[layer], rotate
        # Yarn scales both cosines and sines, hence queries and keys.
        factor = config.rope.attention_factor if rotate else 1.0
        self._scale = factor**2 / math.sqrt(config.head_dim)
        heads = config.num_attention_heads * config.head_dim
        kv_heads = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, heads, config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads, config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads, config.qkv_bias)
        self.o_proj = nn.Linear(heads, config.hidden_size, config.output_bias)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)

    def __call__(
        self, x: mx.array, mask: mx.array | str | None, cache: LayerCache | None
    ) -> mx.array:
        """Return (B, T, hidden_size) of `x` (B, T, hidden_size), which follows `cache`.

        Without a cache, a mask of None stands for the layer's window.
        """
        config = self._config
        B, T, _ = x.shape
        q = self.q_proj(x).reshape(B, T, -1, config.head_dim)
        k = self.k_proj(x).reshape(B, T, -1, config.head_dim)
        v = self.v_proj(x).reshape(B, T, -1, config.head_dim)
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))  # (B, heads, T, head_dim)
        if self._rotate:
            offset = cache.position if cache else 0
            q, k = self._rotate(q, offset), self._rotate(k, offset)
        if cache:
            y = cache.attend(q, k, v, self._scale, mask)
        elif mask is None:
            y = windowed_attention(q, k, v, self._scale, self._window)
        else:
            y = mx.fast.scaled_dot_product_attention(q, k, v, scale=self._scale, mask=mask)
        return self.o_proj(y.swapaxes(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        dims, hidden, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(dims, hidden, bias)
        self.up_proj = nn.Linear(dims, hidden, bias)
        self.down_proj = nn.Linear(hidden, dims, bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., hidden_size) of (..., hidden_size)."""
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config: LlamaConfig, layer: int, rotate: Callable | None):
        super().__init__()
        self.self_attn = Attention(config, layer, rotate)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(
        self, x: mx.array, mask: mx.array | str | None, cache: LayerCache | None
    ) -> mx.array:
        """Return (B, T, hidden_size) of (B, T, hidden_size)."""
        x = x + self.self_attn(self.input_layernorm(x), mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(Decoder):
    """The model; activations have the dtype of its embedding.

    `checkpoint_blocks` turns on gradient checkpointing of each block.
    """

    def __init__(self, config: LlamaConfig, checkpoint_blocks: bool = False):
        super().__init__()
        self.config = config
        self.checkpoint_blocks = checkpoint_blocks
        rotate = make_rotary(config.rope, config.head_dim)
        rotations = [rotate if each else None for each in config.layer_rotated]
        self.model = {
            "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
            "layers": [Block(config, i, each) for i, each in enumerate(rotations)],
            "norm": nn.RMSNorm(config.hidden_size, config.rms_norm_eps),
        }
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def logits(self, hidden_states: mx.array) -> mx.array:
        """Return the logits, float32 (..., vocab_size), of hidden states (..., hidden_size)."""
        tied = self.config.tie_word_embeddings
        head = self.model["embed_tokens"].as_linear if tied else self.lm_head
        return head(hidden_states).astype(mx.float32)

    @property
    def head_weight(self) -> mx.array:
        """The rows of the head, (vocab_size, hidden_size); dequantized if they are quantized."""
        tied = self.config.tie_word_embeddings
        return dense_rows(self.model["embed_tokens"] if tied else self.lm_head)

    def make_cache(self, left_padding: Sequence[int] | None = None) -> Cache:
        """Return an empty cache; `left_padding` counts the padding before each row's prompt."""
        return Cache(self.config.layer_windows, left_padding)

    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        """Return the input of the head, (B, T, hidden_size); `cache` has the previous tokens.

        `segments` (B, T) numbers packed rows: a token attends to its own segment only. Positions
        run on, because rotary embeddings are relative.
        """
        x = self.model["embed_tokens"](ids)
        windows = self.config.layer_windows
        layers = cache.layers if cache else [None] * len(windows)
        if cache:
            masks = cache.masks(ids.shape[1])
        elif segments is not None:
            by_window = {window: segment_mask(segments, window) for window in set(windows)}
            masks = [by_window[window] for window in windows]
        else:
            masks = [None] * len(windows)
        for block, mask, layer in zip(self.model["layers"], masks, layers, strict=True):
            run = checkpointed(block) if self.checkpoint_blocks and not cache else block
            x = run(x, mask, layer)
        return self.model["norm"](x)
