"""Build models from configs: the class, initial weights, and the depth of a parameter."""

import re
from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_encoders._suggest import did_you_mean
from mlx_encoders.bert import BertConfig, BertModel
from mlx_encoders.modernbert import ModernBertConfig, ModernBertModel

EncoderConfig = BertConfig | ModernBertConfig
EncoderModel = BertModel | ModernBertModel

_CONFIGS = {"bert": BertConfig, "modernbert": ModernBertConfig}


def parse_config(values: Mapping[str, object]) -> EncoderConfig:
    """Read a `config.json` dict into the config class of its `model_type`."""
    model_type = str(values.get("model_type"))
    if model_type not in _CONFIGS:
        raise ValueError(f"unknown model_type {model_type!r}{did_you_mean(model_type, _CONFIGS)}")
    return _CONFIGS[model_type].from_dict(values)


def build_model(config: EncoderConfig, seed: int = 0) -> EncoderModel:
    """Return a model with fresh weights, in evaluation mode; call `.train()` for dropout.

    Initialized as in `transformers`: normal for BERT, with a zero row for the padding token;
    truncated normal for ModernBERT, narrower for the two matrices that write into the residual
    stream. The weights depend only on the config and the seed. They are computed at first use.
    """
    model = BertModel(config) if isinstance(config, BertConfig) else ModernBertModel(config)
    parameters = named_parameters(model)
    keys = mx.random.split(mx.random.key(seed), len(parameters))
    fresh = [
        (path, _initial_value(path, array.shape, config, key))
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
    if path.startswith("embeddings."):
        return 0
    if path.startswith(("final_norm.", "pooler.")):
        return last + 1
    layer = re.match(r"(?:encoder\.layer|layers)\.(\d+)\.", path)
    if layer is None or int(layer[1]) >= last:
        raise ValueError(
            f"{path!r} is not a parameter of a {last}-layer encoder: expected a path under "
            f"embeddings, encoder.layer.<n> or layers.<n> with n < {last}, final_norm or pooler"
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
    weight = config.initializer_range * mx.random.normal(shape, key=key)
    if path == "embeddings.word_embeddings.weight" and config.pad_token_id is not None:
        weight = weight * (mx.arange(shape[0]) != config.pad_token_id)[:, None]
    return weight


def _truncated_normal(
    path: str, shape: tuple[int, ...], config: ModernBertConfig, key: mx.array
) -> mx.array:
    cutoff = config.initializer_cutoff_factor
    scale = config.initializer_range
    if path.endswith(".Wo.weight"):
        scale /= (2 * config.num_hidden_layers) ** 0.5
    return scale * mx.random.truncated_normal(-cutoff, cutoff, shape, key=key)
