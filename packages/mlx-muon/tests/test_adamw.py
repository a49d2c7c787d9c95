import mlx.core as mx
import numpy as np
import pytest

from mlx_muon import AdamWRule, Group, Muon


def alone(rule):
    """Return an optimizer that gives every parameter this rule."""
    return Muon(groups=[Group("*", rule)])


@pytest.mark.parametrize(
    ("case", "beta1", "beta2", "eps", "decay"),
    [(0, 0.9, 0.999, 1e-8, 0.01), (1, 0.8, 0.995, 1e-10, 0.5), (2, 0.0, 0.9999, 1e-3, 0.0)],
)
def test_50_steps_equal_those_of_torch(case, beta1, beta2, eps, decay, load_fixture):
    arrays = load_fixture("adamw.safetensors")
    optimizer = alone(AdamWRule(1e-2, weight_decay=decay, betas=(beta1, beta2), eps=eps))
    parameters = {"w": arrays["start"]}
    found = []
    for gradient in arrays["gradients"]:
        parameters = optimizer.apply_gradients({"w": gradient}, parameters)
        found.append(np.array(parameters["w"]))
    after = np.array(arrays[f"after.{case}"])
    for step, expected in zip((0, 9, 49), after, strict=True):
        # Weights are about 1; torch has computed in float64.
        np.testing.assert_allclose(found[step], expected, atol=1e-6)


def test_bfloat16_parameters_are_off_by_their_own_rounding_only(gaussian):
    rule = AdamWRule(0.02, weight_decay=0.1, betas=(0.8, 0.96), eps=1e-10)
    optimizer = alone(rule)
    weight = gaussian(6, 5).astype(mx.bfloat16)
    m = v = np.zeros(weight.shape)
    for step in range(1, 51):
        gradient = gaussian(6, 5, seed=step).astype(mx.bfloat16)
        old = np.array(weight.astype(mx.float32), np.float64)
        weight = optimizer.apply_gradients({"w": gradient}, {"w": weight})["w"]
        g = np.array(gradient.astype(mx.float32), np.float64)
        m, v = 0.8 * m + 0.2 * g, 0.96 * v + 0.04 * g**2
        size = (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.96**step)) + 1e-10)
        expected = old * (1 - 0.02 * 0.1) - 0.02 * size
        assert weight.dtype == mx.bfloat16
        off = np.abs(np.array(weight.astype(mx.float32), np.float64) - expected)
        half_of_the_last_bit = 2.0 ** (np.floor(np.log2(np.abs(expected))) - 8)
        assert np.all(off <= half_of_the_last_bit + 1e-6), step
    state = optimizer.state["parameters"]["w"]
    assert state["m"].dtype == state["v"].dtype == mx.float32


def test_float16_gradients_do_not_underflow_when_squared():
    # 1e-4 squared is 0 in float16, and the update then infinite.
    optimizer = alone(AdamWRule(0.5, weight_decay=0.0, eps=0.0))
    weight = mx.zeros((2, 2), mx.float16)
    gradient = mx.full((2, 2), 1e-4, mx.float16)
    after = optimizer.apply_gradients({"w": gradient}, {"w": weight})["w"]
    assert after.dtype == mx.float16
    np.testing.assert_allclose(np.array(after.astype(mx.float32)), -0.5, rtol=1e-3)


@pytest.mark.parametrize("beta2", [0.999, 0.9999, 0.99999])
def test_second_moment_correction_keeps_its_digits_at_the_first_step(beta2):
    # The first update is the rate itself; 1 - 0.9999 in float32 would be wrong by 1e-4.
    optimizer = alone(AdamWRule(1.0, weight_decay=0.0, betas=(0.9, beta2), eps=0.0))
    after = optimizer.apply_gradients({"w": mx.full((3,), 0.3)}, {"w": mx.zeros(3)})["w"]
    np.testing.assert_allclose(after, -1.0, rtol=1e-6)


def test_betas_of_zero_give_the_sign_of_the_gradient(gaussian):
    optimizer = alone(AdamWRule(1.0, weight_decay=0.0, betas=(0.0, 0.0), eps=0.0))
    gradient = gaussian(4, 4)
    for _ in range(3):
        after = optimizer.apply_gradients({"w": gradient}, {"w": mx.zeros((4, 4))})["w"]
        np.testing.assert_allclose(after, -mx.sign(gradient), rtol=1e-6)


def test_decay_is_decoupled_and_spares_vectors_unless_asked():
    parameters = {"matrix": mx.ones((2, 2)), "vector": mx.ones(2), "scalar": mx.array(1.0)}
    zeros = {path: mx.zeros(each.shape) for path, each in parameters.items()}
    after = alone(AdamWRule(0.1, weight_decay=0.5)).apply_gradients(zeros, parameters)
    assert {path: float(each.max()) for path, each in after.items()} == {
        "matrix": pytest.approx(0.95),
        "vector": 1.0,
        "scalar": 1.0,
    }
    after = alone(AdamWRule(0.1, weight_decay=0.5, decay_vectors=True)).apply_gradients(
        zeros, parameters
    )
    assert all(float(each.max()) == pytest.approx(0.95) for each in after.values())


def test_each_group_has_betas_eps_rate_and_decay_of_its_own(gaussian, gradients_of):
    rules = {
        "a": AdamWRule(0.1, weight_decay=0.0, betas=(0.5, 0.9), eps=1e-3),
        "b": AdamWRule(0.2, weight_decay=0.3, betas=(0.9, 0.99), eps=1e-10),
    }
    together = Muon(groups=[Group(path, rule) for path, rule in rules.items()])
    parameters = {path: gaussian(3, 3, seed=9) for path in rules}
    separate = {path: ({path: parameters[path]}, alone(rule)) for path, rule in rules.items()}
    for step in range(5):
        gradients = gradients_of(parameters, step)
        parameters = together.apply_gradients(gradients, parameters)
        for path, (tree, optimizer) in separate.items():
            tree = optimizer.apply_gradients({path: gradients[path]}, tree)
            assert mx.array_equal(tree[path], parameters[path])
            separate[path] = tree, optimizer


@pytest.mark.parametrize("large", [1e19, 3e19, -3e38])
@pytest.mark.parametrize("state_dtype", [mx.float32, mx.bfloat16])
def test_a_gradient_whose_square_overflows_is_forgotten(large, state_dtype):
    rule = AdamWRule(0.1, eps=0.0)
    optimizer = Muon(groups=[Group("*", rule)], state_dtype=state_dtype)
    parameters = {"bias": mx.zeros(2)}
    parameters = optimizer.apply_gradients({"bias": mx.array([large, 1.0])}, parameters)
    # The first update has the size of the rate; the other entry does not change.
    np.testing.assert_allclose(parameters["bias"], [-0.1 * np.sign(large), -0.1], rtol=1e-2)
    for _ in range(1900):
        parameters = optimizer.apply_gradients({"bias": mx.ones(2)}, parameters)
        mx.eval(parameters, optimizer.state)
    before = parameters["bias"]
    after = optimizer.apply_gradients({"bias": mx.ones(2)}, parameters)["bias"]
    # A running mean in bfloat16 stops 5 % below its limit.
    rounding = 1e-2 if state_dtype == mx.float32 else 6e-2
    np.testing.assert_allclose(before - after, 0.1, rtol=rounding)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_nan_and_infinity_reach_the_weights(bad):
    after = alone(AdamWRule(0.1)).apply_gradients({"w": mx.array([bad, 1.0])}, {"w": mx.zeros(2)})
    assert not mx.isfinite(after["w"])[0]
    assert mx.isfinite(after["w"])[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betas": (0.9,)}, "AdamWRule: betas must be two of [0, 1), got (0.9,)"),
        ({"betas": (0.9, 1.0)}, "AdamWRule: betas must be two of [0, 1), got (0.9, 1.0)"),
        ({"betas": (-0.1, 0.9)}, "AdamWRule: betas must be two of [0, 1), got (-0.1, 0.9)"),
        ({"eps": -1e-8}, "AdamWRule: eps must not be negative, got -1e-08"),
        ({"learning_rate": -1}, "AdamWRule: learning_rate must not be negative, got -1"),
        ({"relative_rate": -1}, "AdamWRule: relative_rate must not be negative, got -1"),
        (
            {"learning_rate": 0.1, "relative_rate": 2.0},
            "AdamWRule: give learning_rate, or relative_rate, which multiplies the optimizer's, "
            "not both",
        ),
        (
            {"weight_decay": float("nan")},
            "AdamWRule: weight_decay must not be negative, got nan",
        ),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        AdamWRule(**arguments)
