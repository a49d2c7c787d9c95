import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_muon import AdamWRule, Group, Muon, MuonRule, adamuon, keller, moonlight, nanochat, normuon
from mlx_muon.updates import join_float32, split_float32, to_float32

DTYPES = (mx.bfloat16, mx.float32, mx.float16)
PRESETS = {make.__name__: make for make in (keller, moonlight, normuon, adamuon)}
PRESETS["nanochat"] = lambda **options: nanochat(768, 20, warmup_steps=4, **options)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
@example([3.4028234663852886e38, 1e-45, -0.0, float("inf"), 1.00390625, 1.01171875])
def test_splitting_and_joining_keep_every_bit(numbers):
    x = mx.array(np.array(numbers, np.float32))
    upper, lower = split_float32(x)
    assert (upper.dtype, lower.dtype) == (mx.bfloat16, mx.uint16)
    joined = join_float32(upper, lower)
    assert mx.array_equal(joined.view(mx.uint32), x.view(mx.uint32))


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=50))
def test_the_upper_half_is_a_nearest_bfloat16(numbers):
    x = mx.array(np.array(numbers, np.float32))
    upper = split_float32(x)[0].astype(mx.float32)
    nearest = x.astype(mx.bfloat16).astype(mx.float32)
    assert mx.array_equal(mx.abs(x - upper), mx.abs(x - nearest))


def parameters(gaussian):
    shapes = {"embed": (5, 4), "tall": (12, 4), "wide": (4, 12), "square": (6, 6), "bias": (4,)}
    return {name: gaussian(*shape, seed=7).astype(mx.bfloat16) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", PRESETS)
def test_with_mantissas_bfloat16_weights_train_as_float32_ones(name, gaussian, gradients_of):
    half, full = PRESETS[name](keep_mantissa=True), PRESETS[name]()
    weights = parameters(gaussian)
    exact = {path: array.astype(mx.float32) for path, array in weights.items()}
    for step in range(10):
        gradients = gradients_of(weights, step)
        weights = half.apply_gradients(gradients, weights)
        exact = full.apply_gradients(gradients, exact)
        for path, array in weights.items():
            assert array.dtype == mx.bfloat16
            joined = join_float32(array, half.state["parameters"][path]["mantissa"])
            assert mx.array_equal(joined, exact[path]), (path, step)


def test_mantissas_keep_updates_that_bfloat16_loses(gaussian):
    rule = MuonRule(scale="none", method="svd")
    weight, gradient = mx.ones((4, 4), mx.bfloat16), mx.eye(4)
    found = {}
    for keep_mantissa in (False, True):
        optimizer, after = Muon(1e-3, muon=rule, keep_mantissa=keep_mantissa), {"w": weight}
        for _ in range(100):
            after = optimizer.apply_gradients({"w": gradient}, after)
        found[keep_mantissa] = float(after["w"][0, 0])
    # Half of the distance to the next number below 1 is 0.002: each single update is lost.
    assert found[False] == 1.0
    assert found[True] == pytest.approx(0.9, abs=2**-8)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_weights_are_rounded_once_an_update(name, dtype, gaussian, gradients_of):
    half, full = PRESETS[name](), PRESETS[name]()
    weights = {path: each.astype(dtype) for path, each in parameters(gaussian).items()}
    for step in range(5):
        gradients = {path: each.astype(dtype) for path, each in gradients_of(weights, step).items()}
        exact = {path: array.astype(mx.float32) for path, array in weights.items()}
        exact = full.apply_gradients(
            {path: each.astype(mx.float32) for path, each in gradients.items()}, exact
        )
        weights = half.apply_gradients(gradients, weights)
        for path, array in weights.items():
            assert array.dtype == dtype
            assert mx.array_equal(array, exact[path].astype(dtype)), (path, step)
        # The state has the dtypes of float32 training.
        assert half.state["parameters"]["tall"]["momentum"].dtype == mx.float32


def test_mantissas_are_for_bfloat16_weights_only(gaussian):
    optimizer = keller(keep_mantissa=True)
    optimizer.init({"a": mx.zeros((2, 2)), "b": mx.zeros((2, 2), mx.float16)})
    assert all("mantissa" not in state for state in optimizer.state["parameters"].values())


@pytest.mark.parametrize("variance", ["none", "short"])
def test_large_float16_gradients_stay_finite(variance, gaussian):
    optimizer = Muon(0.02, muon=MuonRule(variance=variance, equalize_rows=True, renormalize=True))
    gradient = gaussian(32, 48, sigma=5000.0).astype(mx.float16)
    weight = mx.zeros((32, 48), mx.float16)
    after = optimizer.apply_gradients({"w": gradient}, {"w": weight})["w"]
    assert mx.all(mx.isfinite(after))
    assert float(mx.abs(after).max()) > 0


@pytest.mark.parametrize("method", ["polar_express", "newton_schulz"])
def test_iterating_in_bfloat16_stays_near_float32(method, gaussian):
    found = []
    for dtype in (mx.float32, mx.bfloat16):
        optimizer = Muon(1.0, muon=MuonRule(method=method, dtype=dtype, scale="none"))
        after = optimizer.apply_gradients({"w": gaussian(16, 40)}, {"w": mx.zeros((16, 40))})["w"]
        assert after.dtype == mx.float32
        found.append(np.array(after))
    assert np.linalg.norm(found[1] - found[0]) < 0.05 * np.linalg.norm(found[0])


def test_weights_set_to_zero_from_outside_move_again():
    parameters = {"w": mx.random.normal((8, 8), key=mx.random.key(0)).astype(mx.bfloat16)}
    optimizer = Muon(1e-3, keep_mantissa=True)
    for seed in range(5):
        gradients = {"w": mx.random.normal((8, 8), key=mx.random.key(seed))}
        parameters = optimizer.apply_gradients(gradients, parameters)
    parameters = optimizer.apply_gradients(gradients, {"w": mx.zeros((8, 8), mx.bfloat16)})
    assert mx.all(parameters["w"] != 0)


@pytest.mark.parametrize("rule", [MuonRule(), AdamWRule()])
def test_state_of_half_precision_takes_half_the_memory_and_trains_alike(rule):
    found = {}
    for dtype in (mx.float32, mx.bfloat16):
        optimizer = Muon(1e-2, groups=[Group("*", rule)], state_dtype=dtype)
        parameters = {"w": mx.zeros((8, 12))}
        for seed in range(5):
            gradients = {"w": mx.random.normal((8, 12), key=mx.random.key(seed))}
            parameters = optimizer.apply_gradients(gradients, parameters)
        arrays = optimizer.state["parameters"]["w"]
        assert {each.dtype for name, each in arrays.items() if name != "count"} == {dtype}
        found[dtype] = parameters["w"]
    # Eight bits of mantissa, over five updates.
    error = mx.linalg.norm(found[mx.bfloat16] - found[mx.float32])
    assert error / mx.linalg.norm(found[mx.float32]) < 0.02


def test_state_in_float16_is_refused():
    # Squares of gradients of 256 would be infinite in it.
    message = "^Muon: state_dtype must be float32 or bfloat16, got mlx.core.float16$"
    with pytest.raises(ValueError, match=message):
        Muon(state_dtype=mx.float16)


@pytest.mark.parametrize("rule", [MuonRule(), AdamWRule()])
def test_bfloat16_weights_cast_to_float32_get_their_kept_bits_back(rule, gaussian, train):
    groups = [Group("*", rule)]
    start = {"w": gaussian(4, 6).astype(mx.bfloat16)}
    exact = {"w": start["w"].astype(mx.float32)}
    expected = train(Muon(0.01, groups=groups), exact, 0, 4)
    optimizer = Muon(0.01, groups=groups, keep_mantissa=True)
    half = train(optimizer, start, 0, 2)
    found = train(optimizer, {"w": half["w"].astype(mx.float32)}, 2, 4)
    assert found["w"].dtype == mx.float32
    assert mx.array_equal(found["w"], expected["w"])
    assert "mantissa" not in optimizer.state["parameters"]["w"]


def test_an_assigned_weight_drops_the_bits_of_the_old_one(gaussian, train):
    optimizer = Muon(0.0, keep_mantissa=True)
    train(Muon(0.01), {"w": gaussian(4, 6).astype(mx.bfloat16)}, 0, 1)
    train(optimizer, {"w": gaussian(4, 6).astype(mx.bfloat16)}, 0, 2)
    other = gaussian(4, 6, seed=5)
    assert mx.array_equal(train(optimizer, {"w": other}, 2, 3)["w"], other)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    ("before", "after"), [(b, a) for b in DTYPES for a in DTYPES if b != a], ids=str
)
def test_mantissas_follow_the_dtype_of_the_weights(before, after, compile, gaussian):
    """After a change of dtype, training equals that of an optimizer with the new dtype only."""
    model = nn.Linear(4, 4, bias=False)
    model.update({"weight": gaussian(4, 4).astype(before)})
    optimizer = Muon(0.1, keep_mantissa=True, state_dtype=mx.float32)
    optimizer.init(model)

    def update(gradient):
        optimizer.update(model, {"weight": gradient})

    state = [model.state, optimizer.state]
    step = mx.compile(update, inputs=state, outputs=state) if compile else update
    for seed in range(2):
        step(gaussian(4, 4, seed=seed))
        mx.eval(state)
    model.set_dtype(after)
    momentum = optimizer.state["parameters"]["weight"]["momentum"]
    full = to_float32(model.weight, optimizer.state["parameters"]["weight"].get("mantissa"))
    exact, other = {"weight": full}, Muon(0.1)
    other.init(exact)
    other.state["parameters"]["weight"]["momentum"] = momentum
    for seed in range(2, 5):
        step(gaussian(4, 4, seed=seed))
        mx.eval(state)
        exact = other.apply_gradients({"weight": gaussian(4, 4, seed=seed)}, exact)
        if after == mx.float16:
            exact["weight"] = exact["weight"].astype(after)
    assert model.weight.dtype == after
    lower = optimizer.state["parameters"]["weight"].get("mantissa")
    assert (lower is not None) == (after == mx.bfloat16)
    tolerance = 1e-6 if after != mx.float16 else 1e-3
    found = to_float32(model.weight, lower)
    np.testing.assert_allclose(found, exact["weight"].astype(mx.float32), atol=tolerance)
