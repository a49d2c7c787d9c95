"""File formats of the models: the keys of `config.json` and the names of tensors.

model             config keys                    tensor names
nanochat          nanochat's, such as n_embd     nanochat's
nanochat of 2025  mlx-lm's, such as hidden_size  nanochat's, which are mlx-lm's; transformers' names
                                                 are read too
Llama family      transformers'; see             transformers'
GPT-2             `hub_configs`                  transformers'; see `hub_tensors`

The first two have the `model_type` "nanochat": mlx-lm and transformers gave the older model that
name before the newer one existed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeVar

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_gpt.models.decoder import Decoder as Decoder
from mlx_gpt.models.gpt2 import GPT2, GPT2Config
from mlx_gpt.models.hub_configs import HUB_TYPES, hub_config_values, read_hub_config
from mlx_gpt.models.hub_tensors import (
    from_file_names,
    new_hub_model,
    settle_head,
    to_file_names,
)
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import LOGIT_CAP, Nanochat2025, Nanochat2025Config
from mlx_gpt.models.quantization import (
    quantization_values,
    quantize_as_stored,
    read_quantization,
)
from mlx_trainer import ConfigError, load_config

Config = NanochatConfig | Nanochat2025Config | LlamaConfig | GPT2Config
T = TypeVar("T")

# Keys that do not affect the computation.
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


# mlx-lm's and transformers' config keys -> nanochat's.
_CONFIG_KEYS = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "sequence_len",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "num_key_value_heads": "n_kv_head",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True)
class _Rope:
    """transformers' nested form of `rope_theta`."""

    rope_theta: float = 10_000.0
    rope_type: Literal["default"] = "default"


@dataclass(frozen=True)
class _Keys2025:
    """The `config.json` of a model of 2025; values outside of a `Literal` are not supported.

    Defaults are those of mlx-lm, which does not write every key.
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
    rope_parameters: _Rope | None = None  # this and the following keys are transformers'
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
        """Return the config with nanochat's names."""
        values = {ours: getattr(self, theirs) for theirs, ours in _CONFIG_KEYS.items()}
        if self.rope_parameters:
            values["rope_theta"] = self.rope_parameters.rope_theta
        return Nanochat2025Config(**values)


def read_config(values: Mapping[str, object]) -> Config:
    """Return the config of a `config.json`.

    Raises `ValueError` for an unsupported model, and for unknown, missing or invalid keys.
    """
    model_type = values.get("model_type")
    if model_type in HUB_TYPES:
        read_quantization(values)
        return read_hub_config(values)
    if model_type != "nanochat":
        raise ValueError(
            f"model_type {model_type!r} is not supported here, only "
            f"{', '.join(('nanochat', *HUB_TYPES))}; mlx_lm loads many others"
        )
    if "quantization" in values or "quantization_config" in values:
        raise ValueError("quantized weights are not supported; use the model before quantization")
    kept = {key: value for key, value in values.items() if key not in IGNORED_KEYS}
    if "hidden_size" in kept:
        return strict_config(_Keys2025, kept).config()
    # Defaults are for new models: in a file, a missing window pattern would go unnoticed.
    names = {field.name for field in fields(NanochatConfig)}
    if kept.keys() < names:
        missing = sorted(names - kept.keys())
        raise ValueError(f"required, but not given: {', '.join(missing)}")
    return strict_config(NanochatConfig, kept)


def build_model(
    values: Mapping[str, object], tensors: Mapping[str, mx.array], dtype: mx.Dtype
) -> tuple[Decoder, dict[str, mx.array]]:
    """Return the model of a `config.json`, and the tensors of its file by the model's names.

    The model does not have the weights yet; `dtype` is that of nanochat's activations. Raises
    `ValueError` as `read_config`.
    """
    config = read_config(values)
    if isinstance(config, NanochatConfig):
        return Nanochat(config, dtype), dict(tensors)
    if isinstance(config, Nanochat2025Config):
        return Nanochat2025(config, dtype), _rename_tensors(tensors)
    renamed = from_file_names(tensors, config)
    config, renamed = settle_head(config, renamed, "tie_word_embeddings" in values)
    model = new_hub_model(config)
    if quantization := read_quantization(values):
        quantize_as_stored(model, quantization, renamed)
    return model, renamed


def strict_config(cls: type[T], values: Mapping[str, object]) -> T:
    """Return the dataclass `cls` from a mapping; `ValueError` for unknown or missing keys."""
    try:
        return load_config(cls, base=values)
    except ConfigError as error:
        # Without "base" and the name of the class, which mean nothing to the user.
        text = str(error).removeprefix("base: ").removeprefix(f"{cls.__name__}: ")
        raise ValueError(text) from None


def config_values(model: Decoder) -> dict[str, object]:
    """Return the content of a model's `config.json`."""
    config = model.config
    if isinstance(model, Llama | GPT2):
        values = hub_config_values(model.config)
        quantization = quantization_values(model)
        # mlx-lm writes both keys.
        return values | (
            {"quantization": quantization, "quantization_config": quantization}
            if quantization
            else {}
        )
    values: dict[str, object] = {"architectures": [type(model).__name__]}
    if isinstance(config, NanochatConfig):
        return values | asdict(config)
    keys = {theirs: getattr(config, ours) for theirs, ours in _CONFIG_KEYS.items()}
    keys["intermediate_size"] = 4 * config.n_embd
    return values | {"model_type": "nanochat"} | dict(sorted(keys.items()))


def tensor_names(model: Decoder) -> dict[str, str]:
    """Return each parameter's name in the tensors of `build_model`."""
    names = {name: name for name in named_parameters(model)}
    if isinstance(model, Nanochat):
        # The model has a list without gaps; files number the entries by layer.
        for i, layer in enumerate(model.config.value_embedding_layers):
            names[f"value_embeds.{i}.weight"] = f"value_embeds.{layer}.weight"
    return names


def file_tensors(model: Decoder) -> dict[str, mx.array]:
    """Return the tensors of a model's file, by name."""
    if isinstance(model, Llama | GPT2):
        return to_file_names(model)
    names = tensor_names(model)
    return {names[name]: array for name, array in named_parameters(model).items()}


def named_parameters(model: Decoder) -> dict[str, mx.array]:
    """Return the parameters by their dotted names."""
    return dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]


def _rename_tensors(tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Return the tensors with transformers' names replaced by nanochat's."""
    renamed = {}
    for name, array in tensors.items():
        for theirs, ours in _TRANSFORMERS_NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = array
    return renamed
