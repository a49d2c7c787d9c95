"""BERT (Devlin et al. 2018): learned positions, token types, LayerNorm after each residual.

Module paths are the Hugging Face tensor names (`encoder.layer.0.attention.self.query.weight`), so
checkpoints need no renaming and adapters can use the same targets.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_encoders.attention import attend, check_inputs, merge_heads, padding_mask, split_heads
from mlx_encoders.config import check_allowed, check_sizes, get_activation, select_fields


@dataclass(frozen=True)
class BertConfig:
    """The fields of a Hugging Face `config.json` for BERT; defaults are those of BERT-base."""

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

    def __post_init__(self) -> None:
        check_sizes(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
        )
        get_activation(self.hidden_act)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Read a `config.json` dict; keys that do not affect the encoder are ignored.

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
        return cls(**select_fields(cls, values))  # type: ignore[arg-type]

    def with_dropout(self, dropout: float | None, attention_dropout: float | None) -> Self:
        """Return a copy with these probabilities; None keeps the current one."""
        changes = {
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": attention_dropout,
        }
        return replace(self, **{name: p for name, p in changes.items() if p is not None})

    def to_dict(self) -> dict[str, object]:
        """Return the content of a `config.json` that `transformers` and `from_dict` read."""
        return {"model_type": "bert", "architectures": ["BertModel"], **asdict(self)}


class BertModel(nn.Module):
    """The BERT encoder: token ids to hidden states."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        if config.add_pooling_layer:
            self.pooler = _Pooler(config)

    def __call__(
        self,
        input_ids: mx.array | np.ndarray,
        attention_mask: mx.array | np.ndarray | None = None,
        token_type_ids: mx.array | np.ndarray | None = None,
    ) -> mx.array:
        """Return hidden states (B, L, hidden_size) of ids (B, L).

        `attention_mask` (B, L) is 1 or True for tokens and 0 or False for padding; None means no
        padding. `token_type_ids` (B, L) default to 0. Raises `ValueError` for more than
        `max_position_embeddings` tokens. Ids are not compared with `vocab_size`, which would
        synchronize with the device in every call.
        """
        return self.hidden_states(input_ids, attention_mask, token_type_ids)[-1]

    def hidden_states(
        self,
        input_ids: mx.array | np.ndarray,
        attention_mask: mx.array | np.ndarray | None = None,
        token_type_ids: mx.array | np.ndarray | None = None,
    ) -> list[mx.array]:
        """Return the embedding output and the output of each layer, `num_hidden_layers + 1` arrays.

        The last one equals the output of the model.
        """
        ids, valid = check_inputs(input_ids, attention_mask)
        if ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"the sequence length must be at most max_position_embeddings "
                f"({self.config.max_position_embeddings}), got {ids.shape[1]}; truncate the texts"
            )
        if token_type_ids is not None:
            token_type_ids = mx.array(token_type_ids)
        states = [self.embeddings(ids, token_type_ids)]
        mask = padding_mask(valid)
        for layer in self.encoder.layer:
            states.append(layer(states[-1], mask))
        return states

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

    def __call__(self, input_ids: mx.array, token_type_ids: mx.array | None) -> mx.array:
        x = self.word_embeddings(input_ids) + self.position_embeddings.weight[: input_ids.shape[1]]
        if token_type_ids is None:
            x = x + self.token_type_embeddings.weight[0]
        else:
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

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class _Attention(nn.Module):
    """Self-attention with its output projection, residual and norm."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Output(config.hidden_size, config)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return self.output(self.self(x, mask), x)


class _SelfAttention(nn.Module):
    """Multi-head self-attention up to the concatenated heads."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        queries = split_heads(self.query(x), self.heads)
        keys = split_heads(self.key(x), self.heads)
        values = split_heads(self.value(x), self.heads)
        dropout = self.dropout_prob if self.training else 0.0
        return merge_heads(attend(queries, keys, values, mask, dropout))


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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class _Pooler(nn.Module):
    """Dense and tanh on the first token."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(self, hidden: mx.array) -> mx.array:
        return mx.tanh(self.dense(hidden[:, 0]))
