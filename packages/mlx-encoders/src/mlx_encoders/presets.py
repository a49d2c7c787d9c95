"""Configs of published models by name, and the number of parameters of a model."""

import mlx.nn as nn

from mlx_encoders._suggest import did_you_mean
from mlx_encoders.bert import BertConfig
from mlx_encoders.build import EncoderConfig, encoder_class, named_parameters
from mlx_encoders.modernbert import ModernBertConfig
from mlx_encoders.neobert import NeoBertConfig
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.quantization import is_quantized, logical_size


def _bert(layers: int, hidden_size: int, heads: int) -> BertConfig:
    return BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden_size,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
    )


PRESETS: dict[str, EncoderConfig] = {
    # Turc et al. 2019 (tiny to medium), Devlin et al. 2018
    "bert-tiny": _bert(2, 128, 2),
    "bert-mini": _bert(4, 256, 4),
    "bert-small": _bert(4, 512, 8),
    "bert-medium": _bert(8, 512, 8),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
    # Wang et al. 2020; heads of 32 dimensions
    "minilm-l6": _bert(6, 384, 12),
    "minilm-l12": _bert(12, 384, 12),
    "modernbert-base": ModernBertConfig(),
    "modernbert-large": ModernBertConfig(
        hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16
    ),
    "neobert": NeoBertConfig(),
}
"""Sizes of published models, for `build_model`. Vocabularies are those of the English models."""


def get_preset(name: str) -> EncoderConfig:
    """Return the config of a preset; `ValueError` for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def count_parameters(
    source: EncoderConfig | nn.Module, model_class: type[PretrainedModel] | None = None
) -> int:
    """Return the number of parameters of a model, or of the model that a config describes.

    `model_class` adds its task head to a config; None is the encoder alone, of BERT with its
    pooler. Tied weights count once. Quantized weights count as what they stand for, without their
    scales. Nothing is computed: MLX allocates weights at their first use.
    """
    if isinstance(source, nn.Module):
        model = source
    else:
        model = (model_class or encoder_class(source))(source)  # type: ignore[call-arg]
    total = sum(array.size for array in named_parameters(model).values())
    for layer in model.modules():
        if is_quantized(layer):
            total += logical_size(layer) - sum(
                layer[part].size for part in ("weight", "scales", "biases") if part in layer
            )
    return total
