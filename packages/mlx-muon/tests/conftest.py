import re
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_muon import AdamWRule, Muon, nanochat

FIXTURES = Path(__file__).parent / "fixtures"

# Tests need exact equality, or tolerances near float32's rounding; a GPU may multiply in TF32.
mx.set_default_device(mx.cpu)


@pytest.fixture
def load_fixture():
    """Return a function that reads the arrays of one of the files in fixtures."""

    def load(name: str) -> dict[str, mx.array]:
        return mx.load(str(FIXTURES / name))

    return load


@pytest.fixture
def gaussian():
    """Return a function that makes a float32 array of normal numbers, the same for a seed."""

    def make(*shape: int, seed: int = 0, sigma: float = 1.0) -> mx.array:
        return mx.array((sigma * np.random.default_rng(seed).normal(size=shape)).astype(np.float32))

    return make


@pytest.fixture
def gradients_of(gaussian):
    """Return a function that makes gradients of a flat tree of parameters, the same for a step."""

    def make(parameters: dict[str, mx.array], step: int) -> dict[str, mx.array]:
        return {
            name: gaussian(*parameter.shape, seed=100 * step + index)
            for index, (name, parameter) in enumerate(parameters.items())
        }

    return make


@pytest.fixture
def train(gradients_of):
    """Return a function that gives an optimizer the gradients of steps from `start` to `stop`."""

    def run(optimizer, parameters: dict[str, mx.array], start: int, stop: int) -> dict:
        for step in range(start, stop):
            parameters = optimizer.apply_gradients(gradients_of(parameters, step), parameters)
            mx.eval(parameters, optimizer.state)
        return parameters

    return run


@pytest.fixture
def make_step(gaussian):
    """Return a function that makes (model, step, list of traces) of a training step."""

    def build(optimizer, compiled, frozen=()):
        # The smallest model with all kinds of updates: each CPU kernel takes 0.5 s to compile.
        linear = [nn.Linear(6, 6, bias=False) for _ in range(2)]
        model = nn.Sequential(nn.Embedding(5, 6), *linear)
        for index, (path, array) in enumerate(tree_flatten(model.parameters())):
            model.load_weights([(path, gaussian(*array.shape, seed=index))], strict=False)
        for name, module in model.named_modules():
            if name in frozen:
                module.freeze()
        optimizer.init(model)
        traces = []

        def loss_fn(model, x):
            traces.append(None)
            return mx.square(model(x) - 1).mean()

        def step(x):
            loss, gradients = nn.value_and_grad(model, loss_fn)(model, x)
            optimizer.update(model, gradients)
            return loss

        if compiled:
            state = [model.state, optimizer.state]
            step = partial(mx.compile, inputs=state, outputs=state)(step)
        return model, step, traces

    return build


@pytest.fixture
def scheduled():
    """Return a function that makes an optimizer whose rates, decays, momentum and betas change."""

    def decaying(start):
        return lambda step: start / (1 + 0.01 * step.astype(mx.float32))

    def make() -> Muon:
        betas = (decaying(0.9), lambda step: 0.99 - 0.001 * step)
        adamw = AdamWRule(weight_decay=decaying(0.1), betas=betas)
        return nanochat(6, 100, groups=[], adamw=adamw)

    return make


@pytest.fixture
def save_and_load(tmp_path):
    """Return a function that writes a tree of arrays to a file and reads it again."""

    def reload(tree: object) -> object:
        path = str(tmp_path / "arrays.safetensors")
        mx.save_safetensors(path, dict(tree_flatten(tree)))
        return tree_unflatten(list(mx.load(path).items()))

    return reload


@pytest.fixture
def exactly():
    """Return a function that makes the pattern which matches one whole message."""
    return lambda message: f"^{re.escape(message)}$"
