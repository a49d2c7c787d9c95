"""How each model is written: the keys of its `config.json` and the names of its tensors.

model             config keys                      tensor names
nanochat          nanochat's, from n_embd on       nanochat's
nanochat of 2025  mlx-lm's, from hidden_size on    mlx-lm's, which are nanochat's; when reading
                                                   also transformers'

The `model_type` of all of them is "nanochat": mlx-lm and transformers gave the older model that
name before there was a newer one.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeVar

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_gpt.models.nanochat import LOGIT_CAP, Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_trainer import ConfigError, load_config

Decoder = Nanochat | Nanochat2025
T = TypeVar("T")

# Who wrote the folder, how to sample from the model, how to train it further: nothing that decides
# what it computes.
IGNORED_KEYS = frozenset(
    [
        *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
        *("attention_dropout", "initializer_range", "tokenizer_sha256"),
    ]
)

_TRANSFORMERS_NAMES = {
    "model.embed_tokens.": "transformer.wte.",
    "model.layers.": "transformer.h.",
    "self_attn.q_proj.": "attn.c_q.",
    "self_attn.k_proj.": "attn.c_k.",
    "self_attn.v_proj.": "attn.c_v.",
    "self_attn.o_proj.": "attn.c_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


@dataclass(frozen=True)
class _Rope:
    """transformers' nested form of `rope_theta`."""

    rope_theta: float = 10_000.0
    rope_type: Literal["default"] = "default"


@dataclass(frozen=True)
class _Keys2025:
    """What may be in the `config.json` of a model of 2025; a `Literal` has no other value here.

    Defaults are mlx-lm's, of what it computes with and does not always write.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    intermediate_size: int
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    model_type: Literal["nanochat"] = "nanochat"
    rms_norm_eps: float = 1e-5  # mlx-lm never writes it; transformers and we do
    rope_parameters: _Rope | None = None  # this and what follows is transformers'
    hidden_act: Literal["relu2"] = "relu2"
    final_logit_softcapping: float = LOGIT_CAP
    attention_bias: Literal[False] = False
    tie_word_embeddings: Literal[False] = False

    def __post_init__(self):
        if self.intermediate_size != 4 * self.hidden_size:
            raise ValueError(
                f"intermediate_size must be four times hidden_size, "
                f"got {self.intermediate_size} and {self.hidden_size}"
            )
        if self.final_logit_softcapping != LOGIT_CAP:
            raise ValueError(
                f"final_logit_softcapping must be {LOGIT_CAP}, got {self.final_logit_softcapping}"
            )

    def config(self) -> Nanochat2025Config:
        """Return the same by nanochat's names."""
        rope = self.rope_parameters or self
        return Nanochat2025Config(
            sequence_len=self.max_position_embeddings,
            vocab_size=self.vocab_size,
            n_layer=self.num_hidden_layers,
            n_head=self.num_attention_heads,
            n_kv_head=self.num_key_value_heads,
            n_embd=self.hidden_size,
            rope_theta=rope.rope_theta,
            norm_eps=self.rms_norm_eps,
        )


def _new_nanochat(values: Mapping[str, object], dtype: mx.Dtype) -> Decoder:
    if "hidden_size" in values:
        return Nanochat2025(strict_config(_Keys2025, values).config(), dtype)
    # Defaults are for new models: a window pattern that was forgotten would go unnoticed.
    names = {field.name for field in fields(NanochatConfig)}
    if values.keys() < names:
        missing = sorted(names - values.keys())
        raise ValueError(f"required, but not given: {', '.join(missing)}")
    return Nanochat(strict_config(NanochatConfig, values), dtype)


# From the content of config.json and the dtype of activations to a model without its weights.
MODELS: dict[str, Callable[[Mapping[str, object], mx.Dtype], Decoder]] = {"nanochat": _new_nanochat}


def new_model(values: Mapping[str, object], dtype: mx.Dtype) -> Decoder:
    """Return the model that a `config.json` describes, its weights yet to be filled in.

    Raises `ValueError` for a model that is not here, and for unknown, missing or impossible keys.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODELS:
        raise ValueError(f"model_type {model_type!r} is not one of {', '.join(MODELS)}")
    if "quantization" in values or "quantization_config" in values:
        raise ValueError("quantized weights are not read; take the model they were made from")
    kept = {key: value for key, value in values.items() if key not in IGNORED_KEYS}
    return MODELS[model_type](kept, dtype)


def strict_config(cls: type[T], values: Mapping[str, object]) -> T:
    """Return the dataclass `cls` from a mapping; `ValueError` for unknown, missing, wrong keys."""
    try:
        return load_config(cls, base=values)
    except ConfigError as error:
        # Where it came from, and the name of the class, say nothing here.
        text = str(error).removeprefix("base: ").removeprefix(f"{cls.__name__}: ")
        raise ValueError(text) from None


def describe(model: Decoder) -> dict[str, object]:
    """Return the content of the `config.json` of a model."""
    config = model.config
    values: dict[str, object] = {"architectures": [type(model).__name__]}
    if isinstance(config, NanochatConfig):
        return values | asdict(config)
    return values | {
        "model_type": "nanochat",
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "max_position_embeddings": config.sequence_len,
        "num_attention_heads": config.n_head,
        "num_hidden_layers": config.n_layer,
        "num_key_value_heads": config.n_kv_head,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "vocab_size": config.vocab_size,
    }


def file_names(model: Decoder) -> dict[str, str]:
    """Return the name in files of each parameter."""
    names = {name: name for name in parameters(model)}
    if isinstance(model, Nanochat):
        # A list without gaps here, in files counted by the layer.
        for i, layer in enumerate(model.config.value_embedding_layers):
            names[f"value_embeds.{i}.weight"] = f"value_embeds.{layer}.weight"
    return names


def parameters(model: Decoder) -> dict[str, mx.array]:
    """Return the parameters by their dotted names."""
    return dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]


def as_nanochat_names(tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Return the tensors by the names of nanochat, from those of transformers if need be."""
    renamed = {}
    for name, array in tensors.items():
        for theirs, ours in _TRANSFORMERS_NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = array
    return renamed
