"""Read and write the `config.json` of Hugging Face's Llama family and GPT-2.

Both dialects are read, of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and 5
(`rope_parameters`, `dtype`); the older one is written, which transformers 4 and 5, mlx-lm and
llama.cpp read. Keys that would change the computation and are not supported are errors; keys that
no model here knows are named in the log. Both are kept for saving.
"""

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mlx_gpt.models.cache import NO_WINDOW
from mlx_gpt.models.gpt2 import GPT2Config
from mlx_gpt.models.llama import LlamaConfig
from mlx_gpt.models.rope import read_rope, rope_values

_LOGGER = logging.getLogger(__name__)

# model_type -> the defaults of transformers' config class; other keys are required or have none.
LLAMA_FAMILY: dict[str, dict[str, object]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {
        "max_position_embeddings": 131_072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {
        "max_position_embeddings": 32_768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "max_position_embeddings": 32_768,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "smollm3": {
        "max_position_embeddings": 32_768,
        "num_key_value_heads": 4,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
    },
}
_DEFAULT_THETA = {"smollm3": 2_000_000.0}
_CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
HUB_TYPES = tuple(_CLASSES)

# Key -> the values with which the computation is the one implemented here.
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "rope_interleaved": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "num_local_experts": (0,),
    "num_experts": (0,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "text_config": (),
    "vision_config": (),
    "audio_config": (),
}
# Keys without effect on the computation at inference.
_HARMLESS = frozenset(
    [
        *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "attention_dropout"),
        *("initializer_range", "tokenizer_sha256", "model_type", "quantization"),
        *("quantization_config", "_name_or_path", "name_or_path", "pretraining_tp", "is_decoder"),
        *("gradient_checkpointing", "task_specific_params", "n_ctx", "resid_pdrop", "embd_pdrop"),
        *("attn_pdrop", "summary_type", "summary_use_proj", "summary_activation"),
        *("summary_proj_to_labels", "summary_first_dropout", "reorder_and_upcast_attn"),
        *("output_attentions", "output_hidden_states", "output_past", "return_dict"),
        *("torchscript", "use_bfloat16", "id2label", "label2id", "problem_type"),
        *("tie_encoder_decoder", "chunk_size_feed_forward", "_attn_implementation"),
        *("is_llama_config", "transformers.js_config"),
    ]
)
_ROPE_KEYS = {"rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor",
              "original_max_position_embeddings"}  # fmt: skip
_LLAMA_KEYS = {each.name for each in fields(LlamaConfig)} | _ROPE_KEYS | {
    *("attention_bias", "sliding_window", "use_sliding_window", "max_window_layers"),
    *("layer_types", "no_rope_layers", "no_rope_layer_interval"),
}  # fmt: skip
_GPT2_KEYS = {each.name for each in fields(GPT2Config)}
# What saving writes itself.
_WRITTEN = {"architectures", "dtype", "torch_dtype", "quantization", "quantization_config",
            "tokenizer_sha256", "transformers_version"}  # fmt: skip


def read_hub_config(values: Mapping[str, object]) -> LlamaConfig | GPT2Config:
    """Return the config of a `config.json` whose `model_type` is one of `HUB_TYPES`.

    Without the key `tie_word_embeddings`, the config has transformers' default; see
    `hub_tensors.settle_head`. Raises `ValueError` for missing keys, wrong values, and flags that
    change the computation.
    """
    values = _decode_floats(values)
    for key, allowed in _SUPPORTED.items():
        if values.get(key) is not None and values[key] not in allowed:
            raise ValueError(
                f"{key} {values[key]!r} changes the computation and is not supported here; "
                "mlx_lm may load the model"
            )
    known = _GPT2_KEYS if values["model_type"] == "gpt2" else _LLAMA_KEYS
    unknown = sorted(values.keys() - known - _HARMLESS - _SUPPORTED.keys())
    if unknown:
        _LOGGER.warning("config.json: not used: %s", ", ".join(unknown))
    others = {key: values[key] for key in values.keys() - known - _WRITTEN}
    if values["model_type"] == "gpt2":
        given = {key: values[key] for key in _GPT2_KEYS & values.keys()}
        for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            if key in given and not (key == "n_inner" and given[key] is None):
                _integer(given, key)
        return GPT2Config(**given, other_keys=others)  # type: ignore[arg-type]
    return _read_llama(values, others)


def _read_llama(values: Mapping[str, object], others: Mapping[str, object]) -> LlamaConfig:
    family = str(values["model_type"])
    given = LLAMA_FAMILY[family] | dict(values)
    layers, heads = _integer(given, "num_hidden_layers"), _integer(given, "num_attention_heads")
    hidden_size = _integer(given, "hidden_size")
    if given.get("head_dim") is None and hidden_size % heads:
        raise ValueError(
            f"hidden_size must be a multiple of num_attention_heads, got {hidden_size} and {heads}"
        )
    rotated = _rotated_layers(given, layers) if family == "smollm3" else ()
    bias = bool(given.get("attention_bias")) and family not in ("qwen2", "mistral")
    return LlamaConfig(
        vocab_size=_integer(given, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_integer(given, "intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_integer(given, "num_key_value_heads", heads),
        head_dim=_integer(given, "head_dim", hidden_size // heads),
        max_position_embeddings=_integer(given, "max_position_embeddings"),
        rms_norm_eps=float(given.get("rms_norm_eps", 1e-6)),  # type: ignore[arg-type]
        rope=read_rope(given, _DEFAULT_THETA.get(family, 10_000.0)),
        qkv_bias=bias or family == "qwen2",
        output_bias=bias,
        mlp_bias=bool(given.get("mlp_bias")) and family in ("llama", "smollm3"),
        qk_norm=family == "qwen3",
        tie_word_embeddings=bool(given.get("tie_word_embeddings", False)),
        windows=_windows(family, given, rotated, layers),
        rotated=rotated,
        model_type=family,
        other_keys=others,
    )


def _rotated_layers(given: Mapping[str, object], layers: int) -> tuple[bool, ...]:
    listed = given.get("no_rope_layers")  # 1: with RoPE, despite the name
    if listed is None:
        interval = _integer(given, "no_rope_layer_interval")
        return tuple((i + 1) % interval != 0 for i in range(layers))
    if not isinstance(listed, list) or len(listed) < layers:
        raise ValueError(f"no_rope_layers must list {layers} layers, got {listed!r}")
    return tuple(bool(each) for each in listed[:layers])


def _windows(
    family: str, given: Mapping[str, object], rotated: tuple[bool, ...], layers: int
) -> tuple[int, ...]:
    """Return how many tokens before a token each layer sees, empty if all layers see all."""
    window = given.get("sliding_window")
    if family in ("qwen2", "qwen3", "smollm3") and not given.get("use_sliding_window"):
        window = None
    if window is None:
        slides = [False] * layers
    elif family in ("qwen2", "qwen3"):
        slides = [i >= _integer(given, "max_window_layers") for i in range(layers)]
    else:
        slides = [not each for each in rotated] if rotated else [True] * layers
    listed = given.get("layer_types")
    if listed is not None:
        slides = _read_layer_types(family, listed, slides, window)
    if family == "llama" and any(slides):
        raise ValueError("sliding_window is not part of a llama model; mlx_lm may load the model")
    if not any(slides):
        return ()
    # transformers counts the token itself.
    size = _integer(given, "sliding_window") - 1
    return tuple(size if each else NO_WINDOW for each in slides)


def _read_layer_types(
    family: str, listed: object, slides: list[bool], window: object
) -> list[bool]:
    kinds = {"full_attention": False, "sliding_attention": True}
    if not isinstance(listed, list) or len(listed) != len(slides) or set(listed) - kinds.keys():
        raise ValueError(
            f"layer_types must list {len(slides)} of {', '.join(kinds)}; mlx_lm may load others"
        )
    found = [kinds[each] for each in listed]
    if found != slides and (window is None or family in ("llama", "mistral")):
        raise ValueError(f"layer_types contradict the sliding_window of {family}")
    return found


def hub_config_values(config: LlamaConfig | GPT2Config) -> dict[str, object]:
    """Return the keys of `config.json`, in the dialect that all programs read."""
    values: dict[str, object] = {"architectures": [_CLASSES[config.model_type]]}
    values |= dict(sorted(config.other_keys.items()))
    if isinstance(config, GPT2Config):
        own = {key: getattr(config, key) for key in sorted(_GPT2_KEYS - {"other_keys"})}
        # mlx-lm requires n_ctx.
        return values | own | {"n_ctx": config.n_positions}
    names = (
        *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
        *("rms_norm_eps", "tie_word_embeddings"),
    )
    values |= {"hidden_act": "silu"} | {name: getattr(config, name) for name in names}
    values |= rope_values(config.rope)
    if config.model_type in ("llama", "qwen3", "smollm3"):
        values["attention_bias"] = config.output_bias
    if config.model_type in ("llama", "smollm3"):
        values["mlp_bias"] = config.mlp_bias
    if config.rotated:
        values["no_rope_layers"] = [int(each) for each in config.rotated]
    return values | _window_values(config)


def _window_values(config: LlamaConfig) -> dict[str, object]:
    slides = [each != NO_WINDOW for each in config.layer_windows]
    window = next((each + 1 for each in config.layer_windows if each != NO_WINDOW), None)
    if config.model_type == "llama":
        return {}
    if config.model_type == "mistral":
        return {"sliding_window": window}
    kinds = ["sliding_attention" if each else "full_attention" for each in slides]
    return {"use_sliding_window": any(slides), "sliding_window": window, "layer_types": kinds}


def _integer(values: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = values.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"required, but not given: {key}")
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key} must be a positive integer, got {value!r}")
    return value


def _decode_floats(value: Any) -> Any:
    """Return JSON with transformers' tags, as {"__float__": "Infinity"}, as floats."""
    if isinstance(value, Mapping):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {key: _decode_floats(each) for key, each in value.items()}
    return [_decode_floats(each) for each in value] if isinstance(value, list) else value
