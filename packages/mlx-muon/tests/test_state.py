import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_muon import (
    AdamWRule,
    Group,
    Muon,
    MuonRule,
    adamuon,
    keller,
    moonlight,
    nanochat,
    normuon,
)


def flat(tree):
    return dict(tree_flatten(tree))


PRESETS = {make.__name__: make for make in (keller, moonlight, normuon, adamuon)}
PRESETS["nanochat"] = lambda **options: nanochat(768, 20, warmup_steps=4, **options)


def some_parameters(gaussian):
    return {
        "embed": gaussian(5, 4),
        "layers.0": gaussian(12, 4, seed=1),
        "layers.1": gaussian(4, 6, seed=2).astype(mx.bfloat16),
        "bias": gaussian(4, seed=3),
        "experts": gaussian(3, 4, 4, seed=4),
    }


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("keep_mantissa", [False, True])
def test_5_steps_and_5_after_loading_equal_10(name, keep_mantissa, gaussian, train, save_and_load):
    split = Group("layers.0", MuonRule(split=(4, 8), variance="short"))

    def make():
        return PRESETS[name](keep_mantissa=keep_mantissa, groups=[split])

    start = some_parameters(gaussian)
    expected = train(make(), start, 0, 10)
    first, second = make(), make()
    half = train(first, start, 0, 5)
    second.state = save_and_load(first.state)
    found = train(second, half, 5, 10)
    assert int(second.step) == 10
    for path, array in expected.items():
        assert mx.array_equal(found[path], array), path


@pytest.mark.parametrize("name", ["keller", "nanochat"])
def test_5_compiled_steps_and_5_after_loading_equal_10(name, make_step, scheduled, save_and_load):
    make = scheduled if name == "nanochat" else keller

    def run(model, step, optimizer):
        for index in range(5):
            mx.eval(step(mx.array([0, 1, 2, 3, 4, index])), model.state, optimizer.state)

    optimizer = make()
    model, step, _ = make_step(optimizer, compiled=True)
    run(model, step, optimizer)
    state, weights = save_and_load(optimizer.state), flat(model.parameters())
    run(model, step, optimizer)

    again = make()
    again.state = state
    other, step, _ = make_step(again, compiled=True)
    other.load_weights(list(weights.items()))
    run(other, step, again)
    for path, array in flat(model.parameters()).items():
        assert mx.array_equal(flat(other.parameters())[path], array), path


def test_state_is_a_tree_of_the_models_paths(gaussian, train):
    groups = [
        Group("layers.0", MuonRule(split=(2, 10), variance="short")),
        Group("layers.1", MuonRule(variance="entries")),
    ]
    optimizer = Muon(keep_mantissa=True, groups=groups)
    train(optimizer, some_parameters(gaussian), 0, 1)
    shapes = {path: (array.shape, array.dtype) for path, array in flat(optimizer.state).items()}
    number = mx.float32
    assert shapes == {
        "step": ((), mx.uint64),
        "learning_rate": ((), number),
        "parameters.embed.m": ((5, 4), number),
        "parameters.embed.v": ((5, 4), number),
        "parameters.embed.count": ((), mx.uint32),
        "parameters.layers.0.momentum": ((12, 4), number),
        "parameters.layers.0.variance.0": ((1, 1, 4), number),
        "parameters.layers.0.variance.1": ((1, 10, 1), number),
        "parameters.layers.1.momentum": ((4, 6), number),
        "parameters.layers.1.variance.0": ((1, 4, 6), number),
        "parameters.layers.1.mantissa": ((4, 6), mx.uint16),
        "parameters.bias.m": ((4,), number),
        "parameters.bias.v": ((4,), number),
        "parameters.bias.count": ((), mx.uint32),
        "parameters.experts.momentum": ((3, 4, 4), number),
    }


@pytest.mark.parametrize("name", ["keller", "moonlight", "normuon", "nanochat"])
def test_state_of_matrices_is_little_more_than_one_number_a_weight(name):
    parameters = {f"w{index}": mx.zeros(shape) for index, shape in enumerate([(64, 64), (64, 256)])}
    optimizer = PRESETS[name]()
    optimizer.init(parameters)
    held = sum(array.size for array in flat(optimizer.state).values())
    assert held <= 1.02 * sum(array.size for array in parameters.values())


def test_a_layer_unfrozen_late_starts_like_a_new_one(gaussian):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    optimizer = Muon(0.1)
    loss_fn = nn.value_and_grad(model, lambda model, x: mx.square(model(x) - 1).mean())
    model.layers[2].freeze()
    x = gaussian(3, 4)
    for _ in range(5):
        optimizer.update(model, loss_fn(model, x)[1])
    kept = flat(optimizer.state)["parameters.layers.0.weight.momentum"]
    assert not any("layers.2" in path for path in flat(optimizer.state))

    model.unfreeze()
    before = model.layers[2].bias
    _, gradients = loss_fn(model, x)
    optimizer.learning_rate = 0.0
    optimizer.update(model, gradients)
    state = flat(optimizer.state)
    np.testing.assert_allclose(
        state["parameters.layers.0.weight.momentum"],
        0.95 * kept + 0.05 * gradients["layers"][0]["weight"],
        rtol=1e-5,
        atol=1e-7,
    )
    assert int(state["parameters.layers.0.bias.count"]) == 6
    assert int(state["parameters.layers.2.bias.count"]) == 1
    assert mx.array_equal(model.layers[2].bias, before)


def test_a_layer_unfrozen_late_gets_a_new_trace_by_init(make_step):
    # mx.compile does not notice otherwise that a model was unfrozen.
    optimizer = keller()
    model, step, traces = make_step(optimizer, compiled=True, frozen=["layers.2"])
    before = flat(model.parameters())
    for _ in range(2):
        mx.eval(step(mx.arange(5)), model.state, optimizer.state)
    assert mx.array_equal(flat(model.parameters())["layers.2.weight"], before["layers.2.weight"])
    model.unfreeze()
    optimizer.init(model)
    for _ in range(2):
        mx.eval(step(mx.arange(5)), model.state, optimizer.state)
    assert len(traces) == 2
    for path, array in flat(model.parameters()).items():
        assert not mx.array_equal(array, before[path]), path


def test_the_first_update_of_a_late_bias_has_the_size_of_the_rate():
    optimizer = Muon(0.1, adamw=AdamWRule(eps=0.0))
    ones = {path: mx.ones(3) for path in ("early", "late")}
    for _ in range(5):
        optimizer.apply_gradients({"early": ones["early"]}, ones)
    after = optimizer.apply_gradients(ones, ones)
    np.testing.assert_allclose(after["late"], 0.9, rtol=1e-6)


def test_state_of_a_layer_frozen_for_a_while_is_kept(gaussian, train, save_and_load):
    both = {path: gaussian(4, 4) for path in ("a", "b")}
    optimizer = keller()
    train(optimizer, both, 0, 2)
    kept = flat(optimizer.state)["parameters.b.momentum"]
    optimizer.state = save_and_load(optimizer.state)
    train(optimizer, {"a": both["a"]}, 2, 4)
    assert mx.array_equal(flat(optimizer.state)["parameters.b.momentum"], kept)


@pytest.mark.parametrize(
    ("before", "after", "shape", "message"),
    [
        (
            MuonRule(),
            MuonRule(),
            (4, 6),
            "momentum of w has shape (6, 4), and its rule needs shape (4, 6)",
        ),
        (
            MuonRule(variance="rows"),
            MuonRule(variance="short", split=(2, 4)),
            (6, 4),
            "variance.0 of w has shape (1, 6, 1), and its rule needs shape (1, 1, 4)",
        ),
        (
            MuonRule(variance="rows", split=(3, 2, 1)),
            MuonRule(variance="rows", split=(3, 1, 2)),
            (6, 4),
            "variance.1 of w has shape (1, 2, 1), and its rule needs shape (1, 1, 1)",
        ),
        (
            MuonRule(variance="rows"),
            MuonRule(),
            (6, 4),
            "variance.0 of w has shape (1, 6, 1), and its rule has no such state",
        ),
        (
            MuonRule(),
            AdamWRule(),
            (6, 4),
            "momentum of w has shape (6, 4), and its rule has no such state",
        ),
        (
            AdamWRule(),
            MuonRule(),
            (6, 4),
            "m of w has shape (6, 4), and its rule has no such state",
        ),
    ],
)
def test_state_of_other_rules_or_shapes_is_refused(before, after, shape, message, exactly, train):
    trained, other = (Muon(groups=[Group("*", rule)]) for rule in (before, after))
    train(trained, {"w": mx.ones((6, 4))}, 0, 1)
    other.state = trained.state
    message = (
        f"the optimizer's state does not fit: {message}; load the state of this model and these "
        "groups, or none"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        train(other, {"w": mx.ones(shape)}, 0, 1)


def test_unused_mantissas_are_refused(exactly, train):
    weight = {"w": mx.ones((2, 2), mx.bfloat16)}
    trained, other = Muon(keep_mantissa=True), Muon()
    train(trained, weight, 0, 1)
    other.state = trained.state
    message = (
        "the optimizer's state does not fit: mantissa of w has shape (2, 2), and its rule has no "
        "such state; load the state of this model and these groups, or none"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        train(other, weight, 1, 2)


def test_state_of_another_optimizer_is_refused():
    optimizer = Muon()
    optimizer.state = {"step": mx.array(3), "learning_rate": mx.array(0.1), "w": {"v": mx.ones(2)}}
    message = (
        "the state has w, which this optimizer does not use; import the state of another "
        "optimizer by load_mlx_state"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        optimizer.init({"w": mx.ones(2)})
