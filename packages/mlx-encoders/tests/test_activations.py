import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_encoders.config import get_activation

X = np.linspace(-12, 12, 4801).astype(np.float32)
WIDE = X.astype(np.float64)
PHI = 0.5 * (1 + np.vectorize(math.erf)(WIDE / math.sqrt(2)))
TANH = np.tanh(math.sqrt(2 / math.pi) * (WIDE + 0.044715 * WIDE**3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu", WIDE * PHI),
        ("gelu_new", 0.5 * WIDE * (1 + TANH)),
        ("gelu_pytorch_tanh", 0.5 * WIDE * (1 + TANH)),
        ("relu", np.maximum(WIDE, 0)),
        ("silu", WIDE / (1 + np.exp(-WIDE))),
    ],
)
def test_config_names_select_their_function(name, expected):
    found = np.array(get_activation(name)(mx.array(X)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_a_patched_mlx_function_affects_existing_models(monkeypatch):
    activation = get_activation("gelu")
    monkeypatch.setattr(nn, "gelu", lambda x: 7 * x)
    assert activation(mx.array(2.0)).item() == 14


def test_an_unknown_activation_is_refused_with_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"unknown activation 'gelu_now'; did you mean 'gelu_new'\?"
    ):
        get_activation("gelu_now")
