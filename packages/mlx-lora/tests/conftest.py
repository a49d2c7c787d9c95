"""A model of 16 dimensions with every kind of layer that has adapters."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten


class Block(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.query = nn.Linear(size, size)
        self.value = nn.Linear(size, size, bias=False)
        self.dense = nn.Linear(size, 2 * size)
        self.output = nn.Linear(2 * size, size)
        self.norm = nn.LayerNorm(size)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + mx.tanh(self.query(x)) * self.value(x)
        return self.norm(x + self.output(nn.gelu(self.dense(x))))


class Toy(nn.Module):
    """Ids (B, L) to logits (B, 3), or with `tied` to scores of the next token (B, L, 24)."""

    def __init__(self, size: int = 16, blocks: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(24, size)
        self.conv = nn.Conv1d(size, size, 3, padding=1)
        self.conv2d = nn.Conv2d(1, size, 3, padding=1)
        self.layers = [Block(size) for _ in range(blocks)]
        self.classifier = nn.Linear(size, 3)

    def hidden(self, ids: mx.array) -> mx.array:
        x = self.embedding(ids)
        x = x + self.conv(x)
        image = (ids[:, :4].reshape(-1, 2, 2, 1) / 24).astype(x.dtype)
        x = x + self.conv2d(image).mean((1, 2))[:, None]
        for layer in self.layers:
            x = layer(x)
        return x

    def __call__(self, ids: mx.array) -> mx.array:
        return self.classifier(self.hidden(ids).mean(1))

    def tied(self, ids: mx.array) -> mx.array:
        return self.embedding.as_linear(self.hidden(ids))


@pytest.fixture
def make() -> Callable[..., Toy]:
    """Return a function that makes the same toy model each time, in evaluation mode."""

    def build(size: int = 16, blocks: int = 2, seed: int = 0) -> Toy:
        mx.random.seed(seed)
        model = Toy(size, blocks)
        mx.eval(model.parameters())
        return model.eval()

    return build


@pytest.fixture
def ids() -> mx.array:
    return mx.array(np.random.default_rng(0).integers(0, 24, (5, 7)))


@pytest.fixture
def stir() -> Callable[..., None]:
    """Return a function that gives the trained parameters of a model other values, by seed."""

    def change(model: nn.Module, seed: int = 1, scale: float = 0.1) -> None:
        key = mx.random.key(seed)
        arrays = dict(tree_flatten(model.trainable_parameters()))
        keys = mx.random.split(key, len(arrays))
        model.load_weights(
            [
                (path, array + scale * mx.random.normal(array.shape, key=k).astype(array.dtype))
                for (path, array), k in zip(arrays.items(), keys, strict=True)
            ],
            strict=False,
        )
        mx.eval(model.parameters())

    return change
