import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_trainer import AdamW, Group, layer_decay


def test_ten_steps_equal_those_of_torch(fixture_arrays):
    arrays = fixture_arrays("adamw.npz")
    names = ["matrix", "bias", "head"]
    optimizer = AdamW(
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.1,
        groups=lambda path, p: Group(0.5 if path == "head" else 1.0, decay=path != "bias"),
    )
    parameters = {name: mx.array(arrays[f"start.{name}"]) for name in names}
    for step, rate in enumerate(arrays["rates"]):
        optimizer.learning_rate = mx.array(rate, mx.float32)
        gradients = {name: mx.array(arrays[f"gradient.{step}.{name}"]) for name in names}
        parameters = optimizer.apply_gradients(gradients, parameters)
        for name in names:
            # 1e-6: a few float32 roundings of parameters near 1.
            np.testing.assert_allclose(parameters[name], arrays[f"after.{step}.{name}"], atol=1e-6)


def test_decay_is_decoupled_and_spares_vectors_by_default():
    optimizer = AdamW(weight_decay=0.5)
    optimizer.learning_rate = mx.array(0.1)
    parameters = {"weight": mx.ones((2, 2)), "bias": mx.ones(2)}
    zeros = {"weight": mx.zeros((2, 2)), "bias": mx.zeros(2)}
    after = optimizer.apply_gradients(zeros, parameters)
    np.testing.assert_allclose(after["weight"], 0.95, rtol=1e-6)
    np.testing.assert_array_equal(after["bias"], 1.0)


def test_bfloat16_parameters_keep_their_dtype_and_have_float32_moments():
    optimizer = AdamW()
    optimizer.learning_rate = mx.array(0.1)
    weight = mx.ones((2, 2), mx.bfloat16)
    after = optimizer.apply_gradients({"weight": weight}, {"weight": weight})
    assert after["weight"].dtype == mx.bfloat16
    assert optimizer.state["weight"]["m"].dtype == mx.float32
    np.testing.assert_allclose(np.array(after["weight"].astype(mx.float32)), 0.9, atol=4e-3)


def test_second_moment_correction_keeps_its_digits_at_the_first_step():
    # 1 - 0.9999 in float32 is wrong by 1e-4; the first update of AdamW is the rate itself.
    optimizer = AdamW(betas=(0.9, 0.9999), eps=0.0, weight_decay=0.0)
    optimizer.learning_rate = mx.array(1.0)
    after = optimizer.apply_gradients({"w": mx.full((3,), 0.3)}, {"w": mx.zeros(3)})
    np.testing.assert_allclose(after["w"], -1.0, rtol=1e-6)


@pytest.mark.parametrize("large", [3e19, -3e38])
def test_one_gradient_whose_square_is_no_float32_is_forgotten(large):
    optimizer = AdamW((0.9, 0.95), 0.0, 0.0)
    optimizer.learning_rate = mx.array(0.1)
    parameters = optimizer.apply_gradients({"b": mx.array([large, 1.0])}, {"b": mx.zeros(2)})
    # The first update is the rate, whatever the size; and the other entry is not touched.
    np.testing.assert_allclose(parameters["b"], [-0.1 * np.sign(large), -0.1], rtol=1e-5)
    for _ in range(1900):
        before = parameters["b"]
        parameters = optimizer.apply_gradients({"b": mx.ones(2)}, parameters)
        mx.eval(parameters, optimizer.state)
    np.testing.assert_allclose(before - parameters["b"], 0.1, rtol=1e-2)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_no_number_reaches_the_weights(bad):
    optimizer = AdamW()
    optimizer.learning_rate = mx.array(0.1)
    after = optimizer.apply_gradients({"b": mx.array([bad, 1.0])}, {"b": mx.zeros(2)})["b"]
    assert mx.isfinite(after).tolist() == [False, True]


def test_layer_decay_lowers_the_rate_away_from_the_output():
    groups = layer_decay(lambda path: int(path[0]), depth=3, decay=0.5)
    matrix = mx.zeros((2, 2))
    rates = [groups(f"{level}.weight", matrix).rate for level in range(4)]
    assert rates == [0.125, 0.25, 0.5, 1.0]
    assert groups("1.weight", matrix).decay
    assert not groups("1.bias", mx.zeros(2)).decay


def test_a_group_of_rate_zero_does_not_move(make_network):
    network = make_network()
    optimizer = AdamW(groups=lambda path, p: Group(rate=float("layers.1" in path)))
    optimizer.learning_rate = mx.array(0.1)
    before = dict(tree_flatten(network.parameters()))
    optimizer.update(network, network.parameters())
    after = dict(tree_flatten(network.parameters()))
    moved = {name for name in before if not mx.array_equal(before[name], after[name])}
    assert moved == {"layers.1.weight", "layers.1.bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betas": (0.9, 1.0)}, "AdamW: betas must be in [0, 1), got (0.9, 1.0)"),
        ({"eps": -1.0}, "AdamW: eps and weight_decay must not be negative, got -1.0 and 0.01"),
    ],
)
def test_impossible_settings_are_refused(arguments, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        AdamW(**arguments)


def test_layer_decay_refuses_a_depth_outside_the_model(exactly):
    groups = layer_decay(lambda path: 9, depth=3, decay=0.5)
    with pytest.raises(
        ValueError,
        match=exactly("layer_decay: depth_of('head.weight') must be between 0 and depth=3, got 9"),
    ):
        groups("head.weight", mx.zeros((2, 2)))
