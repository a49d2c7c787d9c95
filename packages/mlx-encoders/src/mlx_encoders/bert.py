"""BERT (Devlin et al. 2018): learned positions, token types, LayerNorm after each residual.

Module paths are the Hugging Face tensor names (`encoder.layer.0.attention.self.query.weight`), so
checkpoints need no renaming and adapters can use the same targets.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.attention import Context, merge_heads, split_heads
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


@dataclass(frozen=True)
class BertConfig:
    """The fields of a Hugging Face `config.json` for BERT; defaults are those of BERT-base.

    `head_dim` is None, for `hidden_size / num_attention_heads`, unless heads were removed;
    transformers cannot read such a model.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    add_pooling_layer: bool = True
    tie_word_embeddings: bool = True
    classifier_dropout: float | None = None
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
        )
        check_labels(self.num_labels, self.id2label)
        get_activation(self.hidden_act)

    @property
    def attention_size(self) -> int:
        """Width of all heads together, `hidden_size` unless heads were removed."""
        heads = self.num_attention_heads
        return self.hidden_size if self.head_dim is None else heads * self.head_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Read a `config.json` dict; keys that do not affect the model are ignored.

        Raises `ValueError` with key and value for unsupported values.
        """
        check_allowed(
            values,
            {
                "model_type": ("bert",),
                "position_embedding_type": ("absolute", None),
                "is_decoder": (False, None),
                "add_cross_attention": (False, None),
            },
        )
        return cls(**(select_fields(cls, values) | select_labels(values)))  # type: ignore[arg-type]

    def with_dropout(self, dropout: float | None, attention_dropout: float | None) -> Self:
        """Return a copy with these probabilities; None keeps the current one."""
        changes = {
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": attention_dropout,
        }
        return replace(self, **{name: p for name, p in changes.items() if p is not None})

    def to_dict(self, architecture: str = "BertModel") -> dict[str, object]:
        """Return the content of a `config.json` that `transformers` and `from_dict` read."""
        values = drop_unset(asdict(self), "head_dim")
        labels = labels_dict(values.pop("num_labels"), values.pop("id2label"))
        return {"model_type": "bert", "architectures": [architecture], **values, **labels}


class BertModel(EncoderModel):
    """The BERT encoder: token ids to hidden states."""

    config_class = BertConfig

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        if config.add_pooling_layer:
            self.pooler = _Pooler(config)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings."""
        return self.embeddings.word_embeddings

    def _embed(
        self, embeds: mx.array, token_type_ids: Array | None, positions: mx.array | None
    ) -> mx.array:
        limit = self.config.max_position_embeddings
        if embeds.shape[1] > limit:
            raise ValueError(
                f"the sequence length must be at most max_position_embeddings ({limit}), "
                f"got {embeds.shape[1]}; truncate the texts"
            )
        types = None if token_type_ids is None else mx.array(token_type_ids)
        return self.embeddings(embeds, types, positions)

    def _layers(self) -> list["_Layer"]:
        return self.encoder.layer

    def _attention_dropout(self) -> float:
        return self.config.attention_probs_dropout_prob

    def pooled(self, hidden: mx.array) -> mx.array:
        """Return `tanh(W h + b)` (B, hidden_size) of the first token's hidden state.

        Raises `ValueError` when the checkpoint has no pooler.
        """
        if not self.config.add_pooling_layer:
            raise ValueError(
                "this BERT has no pooler (add_pooling_layer=False: its checkpoint has no "
                "pooler tensors); pool the hidden states, or load with new=('pooler',)"
            )
        return self.pooler(hidden)


class _Embeddings(nn.Module):
    """Sum of token, position and type embeddings, normalized."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def __call__(
        self, embeds: mx.array, token_type_ids: mx.array | None, positions: mx.array | None
    ) -> mx.array:
        # Looked up, not sliced, as the weights may be quantized.
        if positions is None:
            positions = mx.arange(embeds.shape[1])
        if token_type_ids is None:
            token_type_ids = mx.array([0])
        x = embeds + self.position_embeddings(positions)
        x = x + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(x))


class _Encoder(nn.Module):
    """The list of layers; a separate module for the name `encoder.layer`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.layer = [_Layer(config) for _ in range(config.num_hidden_layers)]


class _Layer(nn.Module):
    """Attention, then a two-layer network, each added to its input and normalized."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Output(config.intermediate_size, config)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        x = self.attention(x, context)
        return self.output(self.intermediate(x), x, context)


class _Attention(nn.Module):
    """Self-attention with its output projection, residual and norm."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Output(config.attention_size, config)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        return self.output(self.self(x, context), x, context)


class _SelfAttention(nn.Module):
    """Multi-head self-attention up to the concatenated heads."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.attention_size)
        self.key = nn.Linear(config.hidden_size, config.attention_size)
        self.value = nn.Linear(config.hidden_size, config.attention_size)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        queries = split_heads(self.query(x), self.heads)
        keys = split_heads(self.key(x), self.heads)
        values = split_heads(self.value(x), self.heads)
        dropout = self.dropout_prob if self.training else 0.0
        return merge_heads(context.attend(queries, keys, values, dropout=dropout))


class _Intermediate(nn.Module):
    """Expand to `intermediate_size` and activate."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = get_activation(config.hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.activation(self.dense(x))


class _Output(nn.Module):
    """Project to `hidden_size`, dropout, add the residual, normalize."""

    def __init__(self, input_size: int, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def __call__(self, x: mx.array, residual: mx.array, context: Context) -> mx.array:
        dropout = self.dropout_prob if self.training else 0.0
        return self.LayerNorm(context.drop(self.dense(x), dropout) + residual)


class _Pooler(nn.Module):
    """Dense and tanh on the first token."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(self, hidden: mx.array) -> mx.array:
        return mx.tanh(self.dense(hidden[:, 0]))
