"""Four measured defects of other MLX encoders, each a test that they fail."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_encoders import ModernBertConfig, build_model, load_model
from mlx_encoders.config import get_activation


def test_gelu_is_that_of_the_error_function_not_of_tanh():
    x = np.linspace(-5, 5, 1001)
    exact = np.array([each * 0.5 * math.erfc(-each / math.sqrt(2)) for each in x])
    found = np.array(get_activation("gelu")(mx.array(x, mx.float32)))
    # The tanh form differs by 4e-4, and hidden states of a 4-layer model by 2e-3.
    assert np.abs(found - exact).max() < 2e-6
    tanh = np.array(get_activation("gelu_new")(mx.array(x, mx.float32)))
    assert np.abs(tanh - exact).max() > 1e-4


def test_a_boolean_mask_is_read_as_one(fixtures, read_case):
    case = read_case(fixtures / "modernbert" / "right_padding.safetensors")
    model, _ = load_model(fixtures / "modernbert")
    valid = np.array(case["attention_mask"]).astype(bool)
    found = np.array(model(case["input_ids"], mx.array(valid)))
    last = np.array(case[f"hidden.{model.config.num_hidden_layers}"])
    assert np.abs(found - last)[valid].max() < 1e-5


def test_the_config_of_transformers_5_sets_layer_types_and_both_thetas():
    config = ModernBertConfig.from_dict(
        {
            "model_type": "modernbert",
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 80000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        }
    )
    assert config.layer_types == ("sliding_attention", "full_attention", "sliding_attention")
    assert (config.global_rope_theta, config.local_rope_theta) == (80000.0, 500.0)
    layers = build_model(config).layers
    assert [layer.attn.rope_theta for layer in layers] == [500.0, 80000.0, 500.0]
    assert [layer.attn.reach for layer in layers] == [64, None, 64]


@pytest.mark.parametrize("length", [128, 160])
def test_padded_rows_in_half_precision_are_finite(tiny_config, length):
    if hasattr(tiny_config, "max_position_embeddings"):
        tiny_config = type(tiny_config).from_dict(
            tiny_config.to_dict() | {"max_position_embeddings": 256}
        )
    model = build_model(tiny_config)
    model.set_dtype(mx.float16)
    valid = np.arange(length) < np.array([[length], [7], [1]])
    hidden = model(np.full((3, length), 5), valid)
    assert hidden.dtype == mx.float16
    assert bool(mx.isfinite(hidden).all())
