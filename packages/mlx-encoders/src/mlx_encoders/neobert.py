"""NeoBERT (Le Breton et al. 2025): rotary positions, SwiGLU, RMSNorm first, no biases, no dropout.

Module paths are the tensor names of the hub's checkpoint, where `encoder.weight` is the word
embedding. Its dropout is only in the classification head.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.attention import Context, merge_heads
from mlx_encoders.config import (
    check_allowed,
    check_labels,
    check_sizes,
    drop_unset,
    labels_dict,
    select_fields,
    select_labels,
)
from mlx_encoders.inputs import Array
from mlx_encoders.pretrained import EncoderModel

_ROPE_THETA = 10000.0  # fixed in the authors' code; the config has no key for it
_MULTIPLE = 8  # of the inner size


@dataclass(frozen=True)
class NeoBertConfig:
    """The fields of a `config.json` for NeoBERT; defaults are those of the hub's checkpoint.

    The feed-forward network has `inner_size` units, two thirds of `intermediate_size`. `head_dim`
    is as in `BertConfig`.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 28
    num_attention_heads: int = 12
    max_length: int = 4096
    norm_eps: float = 1e-5
    embedding_init_range: float = 0.02
    decoder_init_range: float = 0.02
    classifier_init_range: float = 0.02
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False
    classifier_dropout: float = 0.1
    head_dim: int | None = None
    num_labels: int = 2
    id2label: dict[int, str] | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        check_sizes(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            head_dim=self.head_dim,
        )
        check_labels(self.num_labels, self.id2label)
        check_allowed(vars(self), {"tie_word_embeddings": (False,)})

    @property
    def attention_size(self) -> int:
        """Width of all heads together, `hidden_size` unless heads were removed."""
        heads = self.num_attention_heads
        return self.hidden_size if self.head_dim is None else heads * self.head_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Read a `config.json` dict; keys that do not affect the model are ignored.

        Raises `ValueError` with key and value for unsupported values, such as those of the nGPT
        variant of NeoBERT.
        """
        allowed = {"model_type": ("neobert",), "ngpt": (False, None), "hidden_act": ("swiglu",)}
        check_allowed(values, {**allowed, "rms_norm": (True,), "rope": (True,)})
        return cls(**(select_fields(cls, values) | select_labels(values)))  # type: ignore[arg-type]

    @property
    def inner_size(self) -> int:
        """Width of the feed-forward network: 2/3 of `intermediate_size`, a multiple of 8."""
        return -(-(2 * self.intermediate_size // 3) // _MULTIPLE) * _MULTIPLE

    def with_dropout(self, dropout: float | None, attention_dropout: float | None) -> Self:
        """Return itself for None and 0; the architecture has no dropout to set."""
        if dropout or attention_dropout:
            raise ValueError(
                "NeoBERT has no dropout: dropout and attention_dropout must be 0 or None, "
                f"got {dropout} and {attention_dropout}"
            )
        return self

    def to_dict(self, architecture: str = "NeoBERT") -> dict[str, object]:
        """Return the content of a `config.json`."""
        values = drop_unset(asdict(self), "head_dim")
        labels = labels_dict(values.pop("num_labels"), values.pop("id2label"))
        return {"model_type": "neobert", "architectures": [architecture], **values, **labels}


class NeoBertModel(EncoderModel):
    """The NeoBERT encoder: token ids to hidden states."""

    config_class = NeoBertConfig
    architecture = "NeoBERT"

    def __init__(self, config: NeoBertConfig):
        super().__init__()
        self.config = config
        self.encoder = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer_encoder = [_Layer(config) for _ in range(config.num_hidden_layers)]
        self.layer_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings."""
        return self.encoder

    def _embed(
        self, embeds: mx.array, token_type_ids: Array | None, positions: mx.array | None
    ) -> mx.array:
        if token_type_ids is not None:
            raise ValueError("NeoBERT has no token types: token_type_ids must be None")
        if embeds.shape[1] > self.config.max_length:
            raise ValueError(
                f"the sequence length must be at most max_length ({self.config.max_length}), "
                f"got {embeds.shape[1]}; truncate the texts"
            )
        return embeds

    def _layers(self) -> list["_Layer"]:
        return self.transformer_encoder

    def _last_norm(self, hidden: mx.array) -> mx.array:
        return self.layer_norm(hidden)


class _Layer(nn.Module):
    """Attention, then SwiGLU, each on a normalized input and added to the residual."""

    def __init__(self, config: NeoBertConfig):
        super().__init__()
        D, attention_size = config.hidden_size, config.attention_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(D, 3 * attention_size, bias=False)
        self.wo = nn.Linear(attention_size, D, bias=False)
        self.ffn = _SwiGLU(D, config.inner_size)
        self.attention_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(D, eps=config.norm_eps)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        x = x + self.wo(self._attend(self.qkv(self.attention_norm(x)), context))
        return x + self.ffn(self.ffn_norm(x))

    def _attend(self, qkv: mx.array, context: Context) -> mx.array:
        B, L, _ = qkv.shape
        # Each head has its query, key and value side by side, unlike in ModernBERT.
        heads = qkv.reshape(B, L, self.heads, 3, -1)
        queries, keys, values = heads.transpose(3, 0, 2, 1, 4)  # each (B, heads, L, head_dim)
        queries = context.rotate(_pairs_to_halves(queries), _ROPE_THETA)
        keys = context.rotate(_pairs_to_halves(keys), _ROPE_THETA)
        return merge_heads(context.attend(queries, keys, values))


class _SwiGLU(nn.Module):
    """`w3(silu(a) * b)`, where a and b are the two halves of `w12(x)`."""

    def __init__(self, hidden_size: int, inner_size: int):
        super().__init__()
        self.w12 = nn.Linear(hidden_size, 2 * inner_size, bias=False)
        self.w3 = nn.Linear(inner_size, hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        activated, gate = mx.split(self.w12(x), 2, axis=-1)
        return self.w3(nn.silu(activated) * gate)


def _pairs_to_halves(x: mx.array) -> mx.array:
    """Reorder (x0, y0, x1, y1, ...) of the last axis to (x0, x1, ..., y0, y1, ...).

    The checkpoint rotates neighbouring pairs. Applied to queries and keys alike, the order does not
    change their products, and `Context.rotate` has one form.
    """
    *outer, D = x.shape
    return x.reshape(*outer, D // 2, 2).swapaxes(-1, -2).reshape(*outer, D)
