import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"


class Network(nn.Module):
    """Two layers of 8 units with dropout between."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.layers = [nn.Linear(6, 8), nn.Linear(8, 3)]
        self.dropout = nn.Dropout(dropout)

    def __call__(self, x):
        return self.layers[1](self.dropout(mx.tanh(self.layers[0](x))))


@pytest.fixture
def make_network():
    """Return a function that makes the same network for the same seed."""

    def make(dropout: float = 0.0, seed: int = 0) -> Network:
        mx.random.seed(seed)
        network = Network(dropout)
        mx.eval(network.parameters())
        return network

    return make


@pytest.fixture
def loss_fn():
    def loss(model, batch):
        losses = nn.losses.cross_entropy(model(batch["x"]), batch["y"])
        return (losses * batch["weight"]).sum(), batch["weight"].sum()

    return loss


@pytest.fixture
def make_batch():
    """Return a function that makes a random batch of learnable rows with unequal weights."""

    def make(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        x = random.normal(size=(rows, 6)).astype(np.float32)
        y = x[:, :3].argmax(axis=1).astype(np.int32)
        return {"x": x, "y": y, "weight": random.uniform(0.1, 1, rows).astype(np.float32)}

    return make


@pytest.fixture
def fixture_arrays():
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(FIXTURES / name) as file:
            return dict(file)

    return load


@pytest.fixture
def exactly():
    """Return a function that makes the pattern which matches one whole message."""
    return lambda message: f"^{re.escape(message)}$"
