from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_encoders import BertConfig, ModernBertConfig, NeoBertConfig


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return Path(__file__).parent / "fixtures"


@pytest.fixture
def read_case() -> Callable[[Path], dict[str, mx.array]]:
    return lambda path: mx.load(str(path))


@pytest.fixture(params=["bert", "modernbert", "neobert"])
def tiny_config(request: pytest.FixtureRequest) -> BertConfig | ModernBertConfig | NeoBertConfig:
    """Two or four layers of 16 dimensions, without dropout unless a test sets it."""
    if request.param == "bert":
        return BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    if request.param == "neobert":
        return NeoBertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_length=256,
        )
    return ModernBertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        local_attention=8,
        pad_token_id=0,
    )


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 30, (3, 20)).astype(np.int32)
