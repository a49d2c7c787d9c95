"""ModernBERT (Warner et al. 2024): rotary positions, gated GELU, norm first, no biases.

Most layers attend to a window of keys. Every third one, from the first, attends to the whole
sequence and has a larger base for its rotary positions. Module paths are the Hugging Face tensor
names.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.attention import Context, merge_heads
from mlx_encoders.config import (
    check_allowed,
    check_labels,
    check_sizes,
    drop_unset,
    get_activation,
    labels_dict,
    select_fields,
    select_labels,
)
from mlx_encoders.inputs import Array
from mlx_encoders.pretrained import EncoderModel

FULL = "full_attention"
SLIDING = "sliding_attention"


@dataclass(frozen=True)
class ModernBertConfig:
    """The fields of a Hugging Face `config.json` for ModernBERT; defaults are those of the base.

    `layer_types` has "full_attention" or "sliding_attention" for each layer; None means full at
    every `global_attn_every_n_layers`-th index. `local_attention` is the whole window in tokens: a
    query attends to `local_attention // 2` keys on each side, and itself. The ids of special tokens
    are only stored. `head_dim` is as in `BertConfig`.
    """

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    initializer_cutoff_factor: float = 2.0
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    mlp_dropout: float = 0.0
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    layer_types: tuple[str, ...] | None = None
    global_rope_theta: float = 160000.0
    local_rope_theta: float = 10000.0
    pad_token_id: int | None = 50283
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    cls_token_id: int | None = None
    sep_token_id: int | None = None
    tie_word_embeddings: bool = True
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    head_dim: int | None = None
    num_labels: int = 2
    id2label: dict[int, str] | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        check_sizes(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            head_dim=self.head_dim,
            global_attn_every_n_layers=self.global_attn_every_n_layers,
        )
        check_labels(self.num_labels, self.id2label)
        check_allowed(vars(self), {"classifier_pooling": ("cls", "mean")})
        get_activation(self.hidden_activation)
        get_activation(self.classifier_activation)
        types = self.layer_types or self._every_nth_layer_full()
        if len(types) != self.num_hidden_layers or not set(types) <= {FULL, SLIDING}:
            raise ValueError(
                f"layer_types must name {FULL!r} or {SLIDING!r} for each of the "
                f"{self.num_hidden_layers} layers, got {list(types)}"
            )
        object.__setattr__(self, "layer_types", tuple(types))

    @property
    def attention_size(self) -> int:
        """Width of all heads together, `hidden_size` unless heads were removed."""
        heads = self.num_attention_heads
        return self.hidden_size if self.head_dim is None else heads * self.head_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Read a `config.json` dict of either format; keys that do not affect it are ignored.

        The older format has `global_attn_every_n_layers`, `global_rope_theta` and
        `local_rope_theta`. That of transformers 5 has `layer_types` and `rope_parameters`, which
        take precedence. Raises `ValueError` with key and value for unsupported values.
        """
        check_allowed(values, {"model_type": ("modernbert",), "rope_scaling": (None,)})
        if values.get("initializer_cutoff_factor", 0) is None:
            # transformers' default for null
            values = {**values, "initializer_cutoff_factor": 3.0}
        selected = select_fields(cls, values) | select_labels(values)
        rope = values.get("rope_parameters") or {}
        for layer_type, field in ((FULL, "global_rope_theta"), (SLIDING, "local_rope_theta")):
            parameters = rope.get(layer_type) or {}  # type: ignore[attr-defined]
            check_allowed(parameters, {"rope_type": ("default",)})
            if "rope_theta" in parameters:
                selected[field] = parameters["rope_theta"]
        if selected.get("layer_types") is not None:
            selected["layer_types"] = tuple(selected["layer_types"])  # type: ignore[arg-type]
        return cls(**selected)  # type: ignore[arg-type]

    def with_dropout(self, dropout: float | None, attention_dropout: float | None) -> Self:
        """Return a copy with these probabilities; None keeps the current one."""
        changes = {
            "embedding_dropout": dropout,
            "mlp_dropout": dropout,
            "attention_dropout": attention_dropout,
        }
        return replace(self, **{name: p for name, p in changes.items() if p is not None})

    def to_dict(self, architecture: str = "ModernBertModel") -> dict[str, object]:
        """Return the content of a `config.json`, in both formats at once."""
        values = drop_unset(asdict(self), "head_dim")
        values |= labels_dict(values.pop("num_labels"), values.pop("id2label"))
        values["layer_types"] = list(self.layer_types or ())
        if self.layer_types != self._every_nth_layer_full():
            del values["global_attn_every_n_layers"]  # the older format cannot express this pattern
        values["rope_parameters"] = {
            FULL: {"rope_type": "default", "rope_theta": self.global_rope_theta},
            SLIDING: {"rope_type": "default", "rope_theta": self.local_rope_theta},
        }
        return {"model_type": "modernbert", "architectures": [architecture], **values}

    def _every_nth_layer_full(self) -> tuple[str, ...]:
        every = self.global_attn_every_n_layers
        return tuple(SLIDING if i % every else FULL for i in range(self.num_hidden_layers))


class ModernBertModel(EncoderModel):
    """The ModernBERT encoder: token ids to hidden states."""

    config_class = ModernBertConfig

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.layers = [_Layer(config, index) for index in range(config.num_hidden_layers)]
        self.final_norm = _layer_norm(config)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings."""
        return self.embeddings.tok_embeddings

    def _embed(
        self, embeds: mx.array, token_type_ids: Array | None, positions: mx.array | None
    ) -> mx.array:
        if token_type_ids is not None:
            raise ValueError("ModernBERT has no token types: token_type_ids must be None")
        return self.embeddings(embeds)

    def _layers(self) -> list["_Layer"]:
        return self.layers

    def _last_norm(self, hidden: mx.array) -> mx.array:
        return self.final_norm(hidden)

    def _reaches(self) -> set[int | None]:
        return {layer.attn.reach for layer in self.layers}

    def _attention_dropout(self) -> float:
        return self.config.attention_dropout


class _Embeddings(nn.Module):
    """Token embeddings, normalized; positions are rotations inside attention."""

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = _layer_norm(config)
        self.drop = nn.Dropout(config.embedding_dropout)

    def __call__(self, embeds: mx.array) -> mx.array:
        return self.drop(self.norm(embeds))


class _Layer(nn.Module):
    """Attention, then a gated network, each on a normalized input and added to the residual."""

    def __init__(self, config: ModernBertConfig, index: int):
        super().__init__()
        # Layer 0 follows the embedding norm directly; checkpoints have no tensor for it.
        self.attn_norm = _layer_norm(config) if index else nn.Identity()
        self.attn = _Attention(config, (config.layer_types or ())[index])
        self.mlp_norm = _layer_norm(config)
        self.mlp = _MLP(config)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        x = x + self.attn(self.attn_norm(x), context)
        return x + self.mlp(self.mlp_norm(x), context)


class _Attention(nn.Module):
    """Multi-head self-attention with rotary positions and one joint query-key-value product."""

    def __init__(self, config: ModernBertConfig, layer_type: str):
        super().__init__()
        self.heads = config.num_attention_heads
        self.rope_theta = float(
            config.global_rope_theta if layer_type == FULL else config.local_rope_theta
        )
        self.reach = None if layer_type == FULL else config.local_attention // 2
        self.dropout_prob = config.attention_dropout
        D, attention_size = config.hidden_size, config.attention_size
        self.Wqkv = nn.Linear(D, 3 * attention_size, bias=config.attention_bias)
        self.Wo = nn.Linear(attention_size, D, bias=config.attention_bias)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        B, L, _ = x.shape
        qkv = self.Wqkv(x).reshape(B, L, 3, self.heads, -1)
        queries, keys, values = qkv.transpose(2, 0, 3, 1, 4)  # each (B, heads, L, head_dim)
        queries = context.rotate(queries, self.rope_theta)
        keys = context.rotate(keys, self.rope_theta)
        dropout = self.dropout_prob if self.training else 0.0
        attended = context.attend(queries, keys, values, self.reach, dropout)
        return context.drop(self.Wo(merge_heads(attended)), dropout)


class _MLP(nn.Module):
    """`Wo(act(a) * b)`, where a and b are the two halves of `Wi(x)`."""

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        D, inner = config.hidden_size, config.intermediate_size
        self.Wi = nn.Linear(D, 2 * inner, bias=config.mlp_bias)
        self.Wo = nn.Linear(inner, D, bias=config.mlp_bias)
        self.activation = get_activation(config.hidden_activation)
        self.dropout_prob = config.mlp_dropout

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        dropout = self.dropout_prob if self.training else 0.0
        activated, gate = mx.split(self.Wi(x), 2, axis=-1)
        return self.Wo(context.drop(self.activation(activated) * gate, dropout))


def _layer_norm(config: ModernBertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
