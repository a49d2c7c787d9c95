import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_heads import (
    ClassificationHead,
    NumericBranch,
    RegressionHead,
    binary_cross_entropy,
    cross_entropy,
    mean_squared_error,
)


def some_inputs(rows=6, length=5, size=8, num_features=3, seed=0):
    random = np.random.default_rng(seed)
    hidden = mx.array(random.normal(size=(rows, length, size)).astype(np.float32))
    mask = mx.array(np.arange(length) < random.integers(1, length + 1, (rows, 1)))
    features = mx.array(random.normal(size=(rows, num_features)).astype(np.float32))
    return hidden, mask, features


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "mean+max", "cls+mean"])
@pytest.mark.parametrize("hidden_layer_size", [0, 7])
def test_two_classes_have_one_logit_and_more_have_one_each(pooling, hidden_layer_size):
    hidden, mask, features = some_inputs()
    shapes = []
    for classes in (2, 4):
        head = ClassificationHead(
            8, classes, pooling=pooling, hidden_layer_size=hidden_layer_size, num_features=3
        )
        shapes.append(head(hidden, mask, features).shape)
    for outputs in (1, 3):
        head = RegressionHead(8, outputs, pooling=pooling, hidden_layer_size=hidden_layer_size)
        shapes.append(head(hidden, mask).shape)
    assert shapes == [(6,), (6, 4), (6,), (6, 3)]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.floats(0, 1e4), st.integers(0, 2**16))
def test_probabilities_are_rows_that_sum_to_one(classes, size, seed):
    random = np.random.default_rng(seed)
    shape = (7,) if classes == 2 else (7, classes)
    logits = mx.array((size * random.normal(size=shape)).astype(np.float32))
    rows = np.array(ClassificationHead(4, classes).probabilities(logits))
    assert rows.shape == (7, classes)
    assert rows.min() >= 0
    np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-6)  # float32 rounding of up to 5 terms
    chosen = np.array(logits) > 0 if classes == 2 else np.array(logits).argmax(1)
    # Logits closer than float32's resolution give equal probabilities, hence no unique argmax.
    assert np.array_equal(rows[np.arange(7), chosen.astype(int)], rows.max(1))


def test_initial_weights_depend_on_the_seed_alone():
    def weights(seed):
        head = ClassificationHead(8, 3, num_features=2, hidden_layer_size=4, seed=seed)
        return dict(tree_flatten(head.parameters()))

    mx.random.seed(1)
    first = weights(5)
    mx.random.seed(2)
    again, other = weights(5), weights(6)
    assert all(mx.array_equal(first[name], again[name]) for name in first)
    assert not mx.array_equal(first["output.weight"], other["output.weight"])


def test_trainable_parameters_are_the_layers_and_nothing_else():
    full = RegressionHead(8, num_features=3, hidden_layer_size=4)
    assert sorted(name for name, _ in tree_flatten(full.trainable_parameters())) == [
        "hidden_layer.bias",
        "hidden_layer.weight",
        "numeric.input.bias",
        "numeric.input.weight",
        "numeric.output.bias",
        "numeric.output.weight",
        "output.bias",
        "output.weight",
        "skip.weight",
    ]
    plain = ClassificationHead(8, 3)
    assert {name: array.shape for name, array in tree_flatten(plain.trainable_parameters())} == {
        "output.weight": (3, 8),
        "output.bias": (3,),
    }


def test_the_first_loss_is_close_to_that_of_a_constant_prediction():
    hidden, mask, features = some_inputs(rows=200, num_features=3)
    head = ClassificationHead(8, 5, num_features=3).eval()
    loss = cross_entropy(head(hidden, mask, features), mx.arange(200) % 5).mean()
    assert float(loss) == pytest.approx(np.log(5), abs=0.05)


def test_compiled_head_and_gradient_are_the_same():
    hidden, mask, features = some_inputs()
    head = ClassificationHead(8, 2, num_features=3, hidden_layer_size=4, dropout=0.0)

    def loss(parameters):
        head.update(parameters)
        return binary_cross_entropy(head(hidden, mask, features), mx.arange(6) % 2).sum()

    parameters = head.trainable_parameters()
    plain = tree_flatten(mx.grad(loss)(parameters))
    compiled = dict(tree_flatten(mx.compile(mx.grad(loss))(parameters)))
    for name, gradient in plain:
        np.testing.assert_allclose(np.array(compiled[name]), np.array(gradient), atol=1e-6)
        assert np.array(gradient).any(), name


def test_gradients_equal_finite_differences():
    hidden, mask, features = some_inputs()
    head = RegressionHead(8, num_features=3, hidden_layer_size=4, dropout=0.0, pooling="cls+mean")
    head.skip.weight = mx.ones((1, 3))

    def loss():
        return mean_squared_error(head(hidden, mask, features), mx.arange(6) * 1.0).mean()

    _, gradients = nn.value_and_grad(head, loss)()
    random = np.random.default_rng(0)
    step = 1e-2
    for name, gradient in tree_flatten(gradients):
        layer, leaf = name.rsplit(".", 1)
        module = dict(head.named_modules())[layer]
        value = module[leaf]
        direction = mx.array(random.normal(size=value.shape).astype(np.float32))
        module[leaf] = value + step * direction
        above = float(loss())
        module[leaf] = value - step * direction
        below = float(loss())
        module[leaf] = value
        slope = float((gradient * direction).sum())
        # Central differences of a float32 loss near 9: rounding 1e-4 and a curvature term.
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=1e-2, abs=2e-3), name


def test_a_batch_of_padding_gives_finite_outputs_and_gradients():
    hidden, mask, features = some_inputs()
    hidden, mask = mx.full(hidden.shape, mx.nan), mx.zeros_like(mask)
    head = ClassificationHead(8, 3, num_features=3)

    def loss():
        return cross_entropy(head(hidden, mask, features), mx.arange(6) % 3).sum()

    value, gradients = nn.value_and_grad(head, loss)()
    assert np.isfinite(float(value))
    assert all(bool(mx.isfinite(each).all()) for _, each in tree_flatten(gradients))


def test_dropout_applies_in_training_only():
    hidden, mask, _ = some_inputs()
    head = ClassificationHead(8, 2, dropout=0.5)
    assert not mx.array_equal(head(hidden, mask), head(hidden, mask))
    head.eval()
    assert mx.array_equal(head(hidden, mask), head(hidden, mask))


def train(head, loss_fn, steps, rate=0.05):
    optimizer = optim.Adam(learning_rate=rate)
    value_and_grad = nn.value_and_grad(head, loss_fn)
    losses = []
    for _ in range(steps):
        loss, gradients = value_and_grad()
        optimizer.update(head, gradients)
        mx.eval(loss, head.parameters(), optimizer.state)
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("classes", [2, 3])
def test_training_on_separable_text_ends_near_zero_loss(classes):
    hidden, mask, _ = some_inputs(rows=48)
    targets = mx.arange(48) % classes
    hidden = hidden + 3 * mx.eye(8)[targets][:, None]
    head = ClassificationHead(8, classes, pooling="cls+mean", hidden_layer_size=8, dropout=0.0)
    loss_of = binary_cross_entropy if classes == 2 else cross_entropy
    losses = train(head, lambda: loss_of(head(hidden, mask), targets).mean(), 60)
    assert losses[0] > 0.5
    assert losses[-1] < 0.02


def test_a_linear_function_of_the_features_is_learned_without_any_text():
    hidden, mask, features = some_inputs(rows=64)
    targets = features @ mx.array([2.0, -1.0, 0.5]) + 0.3
    head = RegressionHead(8, num_features=3, feature_size=4, dropout=0.0)
    nothing = mx.zeros_like(hidden)
    losses = train(
        head, lambda: mean_squared_error(head(nothing, mask, features), targets).mean(), 200
    )
    assert losses[0] > 2
    assert losses[-1] < 1e-3


def test_the_skip_is_linear_in_the_features():
    hidden, mask, features = some_inputs()
    head = ClassificationHead(8, 4, num_features=3).eval()
    plain = head(hidden, mask, features)
    weight = mx.array(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    head.skip.weight = weight
    added = head(hidden, mask, features) - plain
    np.testing.assert_allclose(np.array(added), np.array(features @ weight.T), atol=1e-6)


def test_numeric_branch_works_alone():
    _, _, features = some_inputs()
    assert NumericBranch(3, 5, dropout=0.0, seed=1)(features).shape == (6, 5)


def test_features_are_required_and_checked():
    hidden, mask, features = some_inputs()
    head = ClassificationHead(8, 2, num_features=3)
    message = r"^this head has num_features=3: pass features of shape \(B, 3\)$"
    with pytest.raises(ValueError, match=message):
        head(hidden, mask)
    message = r"^features must have shape \(B, num_features\) = \(6, 3\), got \(6, 2\)$"
    with pytest.raises(ValueError, match=message):
        head(hidden, mask, features[:, :2])
    message = r"^features must have shape \(B, num_features\) = \(6, 0\), got \(6, 3\)$"
    with pytest.raises(ValueError, match=message):
        ClassificationHead(8, 2)(hidden, mask, features)


def test_hidden_states_of_another_width_are_refused():
    hidden, mask, _ = some_inputs()
    message = r"^this head has hidden_size=16, got hidden states of shape \(6, 5, 8\)$"
    with pytest.raises(ValueError, match=message):
        RegressionHead(16)(hidden, mask)


def test_logits_of_another_head_are_refused():
    with pytest.raises(ValueError, match=r"^outputs of this head have shape \(B,\), got \(6, 2\)$"):
        ClassificationHead(8, 2).probabilities(mx.zeros((6, 2)))
    with pytest.raises(ValueError, match=r"^outputs of this head have shape \(B, 3\), got \(6,\)$"):
        ClassificationHead(8, 3).probabilities(mx.zeros(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"hidden_layer_size": -1}, r"hidden_layer_size must be 0 \(none\) or more, got -1"),
        ({"num_features": -1}, r"num_features must be 0 \(none\) or more, got -1"),
        ({"num_features": 2, "feature_size": 0}, "feature_size must be at least 1, got 0"),
        ({"pooling": "men"}, r"unknown pooling 'men'; did you mean 'mean'\?"),
    ],
)
def test_constructor_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ClassificationHead(**{"hidden_size": 8, "num_classes": 2} | arguments)


def test_a_head_without_outputs_is_refused():
    with pytest.raises(ValueError, match=r"^num_outputs must be at least 1, got 0$"):
        RegressionHead(8, 0)
