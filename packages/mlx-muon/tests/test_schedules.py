import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_muon import AdamWRule, Group, Muon, MuonRule, keller, nanochat, normuon


def flat(tree):
    return dict(tree_flatten(tree))


def steps_of(optimizer, updates=1):
    """Return the change of each group's ones by an update with gradients of ones."""
    paths = ("embed", "slow", "head", "matrix", "scheduled")
    parameters = {path: mx.ones((4, 4)) for path in paths}
    for _ in range(updates):
        before = parameters
        parameters = optimizer.apply_gradients(
            {path: mx.ones((4, 4)) for path in paths}, parameters
        )
    return {path: float((before[path] - parameters[path])[0, 0]) for path in paths}


def make(**options):
    return Muon(
        0.04,
        muon=MuonRule(method="svd", scale="none", momentum=0.0),
        groups=[
            Group("slow", MuonRule(learning_rate=0.01, method="svd", scale="none", momentum=0.0)),
            Group("head", AdamWRule(learning_rate=0.003)),
            Group("scheduled", AdamWRule(learning_rate=lambda step: 0.5 / (step + 1))),
        ],
        **options,
    )


# A matrix of ones is orthogonalized to 1/4 in every entry.
AT_FULL_RATE = {"embed": 0.04, "slow": 0.0025, "head": 0.003, "matrix": 0.01}


def test_each_group_has_its_rate():
    expected = AT_FULL_RATE | {"scheduled": 0.5}
    assert steps_of(make()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("factor", [0.5, 2.0, 0.0])
@pytest.mark.parametrize("is_scheduled", [False, True])
def test_setting_the_rate_leaves_groups_that_have_their_own(factor, is_scheduled):
    # A MultiOptimizer would give all groups the new number.
    optimizer = make(schedule=(lambda step: 1.0) if is_scheduled else None)
    optimizer.learning_rate = 0.04 * factor
    expected = AT_FULL_RATE | {"embed": factor * 0.04, "matrix": factor * 0.01, "scheduled": 0.5}
    assert steps_of(optimizer) == pytest.approx(expected, rel=1e-4)


def test_a_relative_rate_follows_the_one_that_is_set():
    group = Group("head", AdamWRule(relative_rate=0.25, eps=0.0))
    for first in (0.04, 0.0):
        optimizer = Muon(first, groups=[group])
        optimizer.learning_rate = 0.08
        assert steps_of(optimizer)["head"] == pytest.approx(0.02, rel=1e-4)


@pytest.mark.parametrize("name", ["keller", "normuon"])
@pytest.mark.parametrize("first", [0.02, 0.0002, 0.0])
def test_the_rate_a_preset_was_made_with_does_not_matter_once_it_is_set(name, first):
    optimizer = {"keller": keller, "normuon": normuon}[name](first)
    optimizer.learning_rate = 0.02
    found = steps_of(optimizer)
    assert found["head"] == pytest.approx(3e-4, rel=1e-4)
    assert found == steps_of({"keller": keller, "normuon": normuon}[name](0.02))


def test_a_rate_of_a_group_may_be_set_in_the_state():
    optimizer = make()
    optimizer.state["rates"]["head"] = mx.array(0.007)
    expected = AT_FULL_RATE | {"head": 0.007, "scheduled": 0.5}
    assert steps_of(optimizer) == pytest.approx(expected, rel=1e-4)


def test_equal_rules_of_two_groups_keep_rates_of_their_own():
    def rule():
        return MuonRule(0.1, method="svd", scale="none", momentum=0.0)

    optimizer = Muon(groups=[Group("slow", rule(), "a.b"), Group("matrix", rule(), "a b")])
    assert set(optimizer.state["rates"]) == {"a_b", "a_b_"}
    optimizer.state["rates"]["a_b_"] = mx.array(0.4)
    found = steps_of(optimizer)
    assert (found["slow"], found["matrix"]) == pytest.approx((0.025, 0.1), rel=1e-4)


def test_a_schedule_multiplies_all_rates_but_functions():
    for updates in (1, 2, 4):
        found = steps_of(make(schedule=lambda step: 1 / (1 + step.astype(mx.float32))), updates)
        expected = {path: rate / updates for path, rate in AT_FULL_RATE.items()}
        assert found == pytest.approx(expected | {"scheduled": 0.5 / updates}, rel=1e-4)


def test_a_rate_that_is_a_function_leaves_rates_of_groups_alone():
    optimizer = Muon(lambda step: 0.1 * (step + 1), groups=[Group("head", AdamWRule(0.003))])
    parameters = {path: mx.zeros((2, 2)) for path in ("embed", "head")}
    gradients = {path: mx.ones((2, 2)) for path in parameters}
    first = optimizer.apply_gradients(gradients, parameters)
    second = optimizer.apply_gradients(gradients, first)
    moves = [float(tree[path][0, 0]) for tree in (first, second) for path in parameters]
    assert moves == pytest.approx([-0.1, -0.003, -0.3, -0.006], rel=1e-4)


def test_step_and_rate_can_be_read():
    optimizer = Muon(lambda step: 0.1 * (step + 1))
    assert int(optimizer.step) == 0
    for step in range(3):
        optimizer.apply_gradients({"w": mx.ones((2, 2))}, {"w": mx.ones((2, 2))})
        assert int(optimizer.step) == step + 1
        assert float(optimizer.learning_rate) == pytest.approx(0.1 * (step + 1))
    assert float(make(schedule=lambda step: 0.5).learning_rate) == pytest.approx(0.02)


def test_nanochat_schedules_equal_those_of_its_training_script(load_fixture):
    arrays = load_fixture("nanochat_schedules.safetensors")
    optimizer = nanochat(768, 1500, weight_decay=0.7)
    for index, step in enumerate(arrays["steps"]):
        found = {
            "rate": optimizer.schedule(step),
            "momentum": optimizer.muon.momentum(step),
            "decay": optimizer.muon.weight_decay(step),
        }
        for name, value in found.items():
            assert float(value) == pytest.approx(float(arrays[name][index]), abs=1e-6), (name, step)


def test_nanochat_scales_rates_by_batch_and_width():
    rates = {
        group.name: float(group.rule.learning_rate)
        for group in nanochat(192, 10, batch_tokens=2**21).groups
    }
    assert rates == pytest.approx(
        {
            # Twice the rates for four times the batch; twice again at a quarter of the width.
            "lm_head": 0.032,
            "wte": 1.2,
            "value_embeds": 0.6,
            "resid_lambdas": 0.01,
            "x0_lambdas": 1.0,
            "smear_gate": 0.2,
            "smear_lambda": 0.2,
            "backout_lambda": 0.2,
        }
    )
    assert nanochat(192, 10, batch_tokens=2**21).base_rate == pytest.approx(0.04)


def test_schedules_run_inside_of_one_compiled_trace(make_step, scheduled):
    x, found = mx.array([0, 1, 2, 3, 4, 0]), []
    for compiled in (False, True):
        optimizer = scheduled()
        model, step, traces = make_step(optimizer, compiled)
        for index in range(100):
            mx.eval(step(x), model.state, optimizer.state)
            if index in (9, 99):
                found.append(flat(model.parameters()))
        assert len(traces) == (1 if compiled else 100)
        assert int(optimizer.step) == 100
    # Compiled code fuses multiplications with additions; training enlarges such differences.
    for eager, compiled, tolerance in [(found[0], found[2], 1e-5), (found[1], found[3], 1e-3)]:
        for path, array in eager.items():
            np.testing.assert_allclose(compiled[path], array, atol=tolerance, err_msg=path)


def test_the_rate_may_be_set_before_each_compiled_step(make_step):
    x, found = mx.array([0, 1, 2, 3, 4, 0]), []
    for compiled in (False, True):
        optimizer = keller()
        model, step, traces = make_step(optimizer, compiled)
        for index in range(20):
            optimizer.learning_rate = mx.array(0.02 / (index + 1))
            optimizer.state["rates"]["adamw"] = mx.array(3e-4 * (index + 1))
            mx.eval(step(x), model.state, optimizer.state)
            assert float(optimizer.learning_rate) == pytest.approx(0.02 / (index + 1))
        assert len(traces) == (1 if compiled else 20)
        found.append(flat(model.parameters()))
    for path, array in found[0].items():
        np.testing.assert_allclose(found[1][path], array, atol=1e-5, err_msg=path)
