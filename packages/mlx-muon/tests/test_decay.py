"""Weight decay is decoupled from the gradient, unlike in mlx.optimizers.Muon.

It adds the decay to the gradient and orthogonalizes both: with a gradient of zero, a decay of 0.01
and a rate of 0.02, a weight of 3 times the identity moves by 0.0204 instead of 0.0006.
"""

import mlx.core as mx
import numpy as np
import pytest

from mlx_muon import Muon, MuonRule, adamuon, keller, moonlight, nanochat, normuon

PLAIN = {"keller": keller, "moonlight": moonlight, "normuon": normuon, "adamuon": adamuon}


@pytest.mark.parametrize("name", PLAIN)
def test_without_gradient_a_weight_shrinks_by_rate_times_decay(name):
    optimizer = PLAIN[name](learning_rate=0.02, weight_decay=0.01)
    weight = 3 * mx.eye(6)
    after = optimizer.apply_gradients({"w": mx.zeros((6, 6))}, {"w": weight})["w"]
    # 3e-7: the last bits of numbers near 3.
    np.testing.assert_allclose(weight - after, 0.0006 * np.eye(6), atol=3e-7)


@pytest.mark.parametrize("shape", [(12, 3), (3, 12), (6, 6)])
def test_cautious_decay_spares_what_the_update_makes_larger(shape, gaussian):
    rule = MuonRule(cautious=True, weight_decay=0.5, scale="keller")
    weight, gradient = gaussian(*shape), gaussian(*shape, seed=1)
    plain = Muon(0.02, weight_decay=0.0, muon=MuonRule(scale="keller"))
    undecayed = plain.apply_gradients({"w": gradient}, {"w": weight})["w"]
    decayed = Muon(0.02, muon=rule).apply_gradients({"w": gradient}, {"w": weight})["w"]
    becomes_smaller = (weight - undecayed) * weight >= 0
    assert 0 < int(becomes_smaller.sum()) < weight.size
    expected = mx.where(becomes_smaller, 0.01 * weight, 0)
    np.testing.assert_allclose(undecayed - decayed, expected, atol=3e-7)


def test_cautious_decay_without_gradient_is_the_plain_one():
    optimizer = Muon(0.02, weight_decay=0.01, muon=MuonRule(cautious=True))
    weight = 3 * mx.eye(6)
    after = optimizer.apply_gradients({"w": mx.zeros((6, 6))}, {"w": weight})["w"]
    np.testing.assert_allclose(weight - after, 0.0006 * np.eye(6), atol=3e-7)


def test_nanochat_decays_with_the_factor_of_tall_matrices_and_less_with_time():
    optimizer = nanochat(768, steps=4, weight_decay=0.5, warmup_steps=0, warmdown_ratio=0.0)
    weight, found = mx.ones((16, 4)), []
    for _ in range(4):
        after = optimizer.apply_gradients({"w": mx.zeros((16, 4))}, {"w": weight})["w"]
        found.append(1 - float(after[0, 0]))
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))
    # sqrt(16 / 4) = 2 times the rate.
    np.testing.assert_allclose(found, 2 * 0.02 * 0.5 * cosine, atol=2e-7)


def test_decay_of_a_rule_comes_before_that_of_the_optimizer():
    for rule, expected in [(MuonRule(), 0.99), (MuonRule(weight_decay=0.0), 1.0)]:
        optimizer = Muon(0.1, weight_decay=0.1, muon=rule)
        after = optimizer.apply_gradients({"w": mx.zeros((2, 2))}, {"w": mx.ones((2, 2))})["w"]
        np.testing.assert_allclose(after, expected, rtol=1e-6)
