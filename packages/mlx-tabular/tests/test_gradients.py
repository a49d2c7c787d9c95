"""The gradient of the whole loss against finite differences, in float32."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_tabular import PiecewiseLinearEmbeddings, TabM, TabularClassifier, TabularRegressor


@pytest.mark.parametrize("estimator", [TabularClassifier(), TabularRegressor()])
def test_gradients_are_those_of_finite_differences(estimator):
    rng = np.random.default_rng(0)
    bins = [np.array([-1.0, 0.2, 1.0], np.float32), np.array([-1.0, 1.0], np.float32)]
    model = TabM(
        d_out=3, n_num_features=2, cat_cardinalities=[3], n_dense_features=1, k=3, d_block=5,
        num_embeddings=PiecewiseLinearEmbeddings(bins, 3),
    )  # fmt: skip
    drawn = [
        (name, mx.array(rng.normal(0.3, 0.5, value.shape).astype(np.float32)))
        for name, value in tree_flatten(model.parameters())
    ]
    model.load_weights(drawn)
    inputs = [mx.array(rng.normal(size=(4, 2)).astype(np.float32)),
              mx.array([[0], [1], [2], [-1]]),
              mx.array(rng.normal(size=(4, 1)).astype(np.float32))]  # fmt: skip
    masks = [mx.array(rng.integers(0, 2, (3, 4, 5)) * 2.0) for _ in range(2)]
    targets = mx.array([0, 2, 1, 0]) if isinstance(estimator, TabularClassifier) else mx.array(
        rng.normal(size=(4, 3)).astype(np.float32))  # fmt: skip
    weights = mx.array([0.1, 0.4, 0.0, 0.7])

    def loss(model):
        return (estimator._objective.row_loss(model(*inputs, masks), targets) * weights).sum()

    _, gradients = nn.value_and_grad(model, loss)(model)
    step = 1e-2
    for name, gradient in tree_flatten(gradients):
        value = dict(drawn)[name]
        direction = mx.array(rng.normal(size=value.shape).astype(np.float32))
        direction = direction / mx.sqrt(mx.square(direction).sum())
        sides = []
        for sign in (step, -step):
            model.load_weights([(name, value + sign * direction)], strict=False)
            sides.append(float(loss(model)))
        model.load_weights([(name, value)], strict=False)
        slope = (sides[0] - sides[1]) / (2 * step)
        expected = float((gradient * direction).sum())
        # The loss has float32's rounding, and the differences an error of the step squared.
        assert abs(slope - expected) < 2e-3 + 5e-3 * abs(expected), name
