"""Build models from configs: the class, initial weights, and the depth of a parameter."""

import re
from collections.abc import Mapping
from typing import TypeVar, overload

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_encoders._suggest import did_you_mean
from mlx_encoders.bert import BertConfig, BertModel
from mlx_encoders.modernbert import ModernBertConfig, ModernBertModel
from mlx_encoders.neobert import NeoBertConfig, NeoBertModel
from mlx_encoders.pretrained import EncoderModel, PretrainedModel

EncoderConfig = BertConfig | ModernBertConfig | NeoBertConfig

_ENCODERS: dict[str, tuple[type, type[EncoderModel]]] = {
    "bert": (BertConfig, BertModel),
    "modernbert": (ModernBertConfig, ModernBertModel),
    "neobert": (NeoBertConfig, NeoBertModel),
}

M = TypeVar("M", bound=PretrainedModel)


def parse_config(values: Mapping[str, object]) -> EncoderConfig:
    """Read a `config.json` dict into the config class of its `model_type`."""
    model_type = str(values.get("model_type"))
    if model_type not in _ENCODERS:
        raise ValueError(f"unknown model_type {model_type!r}{did_you_mean(model_type, _ENCODERS)}")
    return _ENCODERS[model_type][0].from_dict(values)


def encoder_class(config: EncoderConfig) -> type[EncoderModel]:
    """Return the class of the plain encoder with this config."""
    return next(model for kind, model in _ENCODERS.values() if isinstance(config, kind))


@overload
def build_model(config: EncoderConfig, seed: int = 0, model_class: None = None) -> EncoderModel: ...
@overload
def build_model(config: EncoderConfig, seed: int = 0, *, model_class: type[M]) -> M: ...


def build_model(
    config: EncoderConfig, seed: int = 0, model_class: type[PretrainedModel] | None = None
) -> PretrainedModel:
    """Return a model with fresh weights, in evaluation mode; call `.train()` for dropout.

    `model_class` is a class with a task head; None is the encoder alone. Initialized as in
    `transformers`: normal for BERT, with a zero row for the padding token; truncated normal for
    ModernBERT, narrower for the matrices that write into the residual stream; uniform for NeoBERT.
    The weights depend only on the class, the config and the seed. They are computed at first use.
    """
    chosen = model_class or encoder_class(config)
    if not isinstance(config, chosen.config_class):
        raise TypeError(
            f"{chosen.__name__} needs a {chosen.config_class.__name__}, "
            f"got a {type(config).__name__}"
        )
    model = chosen(config)  # type: ignore[call-arg]
    parameters = named_parameters(model)
    keys = mx.random.split(mx.random.key(seed), len(parameters))
    fresh = [
        (path, _initial_value(path.removeprefix(chosen.base_prefix), array.shape, config, key))
        for (path, array), key in zip(parameters.items(), keys, strict=True)
    ]
    model.load_weights(fresh)
    model.eval()
    return model


def layer_index(path: str, config: EncoderConfig) -> int:
    """Return the depth of a parameter: 0 for embeddings, 1 to N for layers, N + 1 after them.

    For layer-wise learning rate decay. Raises `ValueError` for a path that is not a parameter of
    this encoder.
    """
    last = config.num_hidden_layers
    if path.startswith("embeddings.") or path == "encoder.weight":  # NeoBERT's name
        return 0
    if path.startswith(("final_norm.", "layer_norm.", "pooler.")):
        return last + 1
    layer = re.match(r"(?:encoder\.layer|layers|transformer_encoder)\.(\d+)\.", path)
    if layer is None or int(layer[1]) >= last:
        raise ValueError(
            f"{path!r} is not a parameter of a {last}-layer encoder: expected a path under "
            f"embeddings, encoder.layer.<n>, layers.<n> or transformer_encoder.<n> with "
            f"n < {last}, a last norm or pooler"
        )
    return int(layer[1]) + 1


def named_parameters(model: nn.Module) -> dict[str, mx.array]:
    """Return the parameters by path, which is also their Hugging Face tensor name."""
    return dict(tree_flatten(model.parameters()))


def _initial_value(
    path: str, shape: tuple[int, ...], config: EncoderConfig, key: mx.array
) -> mx.array:
    if path.endswith("bias"):
        return mx.zeros(shape)
    if len(shape) == 1:
        return mx.ones(shape)  # the gain of a norm
    if isinstance(config, ModernBertConfig):
        return _truncated_normal(path, shape, config, key)
    if isinstance(config, NeoBertConfig):
        return _uniform(path, shape, config, key)
    weight = config.initializer_range * mx.random.normal(shape, key=key)
    if path == "embeddings.word_embeddings.weight" and config.pad_token_id is not None:
        weight = weight * (mx.arange(shape[0]) != config.pad_token_id)[:, None]
    return weight


def _truncated_normal(
    path: str, shape: tuple[int, ...], config: ModernBertConfig, key: mx.array
) -> mx.array:
    cutoff = config.initializer_cutoff_factor
    scale = config.initializer_range
    if path == "classifier.weight":
        scale = config.hidden_size**-0.5
    elif path.endswith(".Wo.weight") or path in ("head.dense.weight", "decoder.weight"):
        scale /= (2 * config.num_hidden_layers) ** 0.5
    return scale * mx.random.truncated_normal(-cutoff, cutoff, shape, key=key)


def _uniform(path: str, shape: tuple[int, ...], config: NeoBertConfig, key: mx.array) -> mx.array:
    if path == "encoder.weight":
        reach = config.embedding_init_range
    elif path in ("dense.weight", "classifier.weight"):
        reach = config.classifier_init_range
    else:
        reach = config.decoder_init_range
    return mx.random.uniform(-reach, reach, shape, key=key)
