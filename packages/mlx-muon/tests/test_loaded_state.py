"""A loaded state determines the rates, and kinds of parameters that names alone do not."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_muon import AdamWRule, Group, Muon, MuonRule, keller


def flat(tree):
    return dict(tree_flatten(tree))


@pytest.mark.parametrize("schedule", [None, lambda step: mx.array(0.5)])
def test_loaded_rates_replace_those_of_the_optimizer(schedule, gaussian, train, save_and_load):
    def make(rate, adamw_rate):
        return keller(rate, adamw=AdamWRule(adamw_rate, eps=1e-10), schedule=schedule)

    start = {"layers.w": gaussian(4, 4), "head.weight": gaussian(4, 4, seed=1)}
    expected = train(make(0.02, 3e-4), start, 0, 4)
    saved, other = make(0.02, 3e-4), make(0.002, 7e-4)
    half = train(saved, start, 0, 2)
    other.state = save_and_load(saved.state)
    assert "rate 0.02 " in other.explain(start)
    assert "AdamW, rate 0.0003" in other.explain(start)
    found = train(other, half, 2, 4)
    for path, array in expected.items():
        assert mx.array_equal(found[path], array), path
    other.learning_rate = 0.002
    factor = 1.0 if schedule is None else 0.5
    assert float(other.rate_of(other.muon)) == pytest.approx(0.002 * factor)
    assert float(other.rate_of(other.adamw)) == pytest.approx(3e-4 * factor)


def test_rates_missing_in_a_state_come_from_the_rules():
    optimizer = keller()
    optimizer.state = {name: optimizer.state[name] for name in ("step", "learning_rate")}
    optimizer.init({"w": mx.ones((2, 2))})
    assert float(optimizer.state["rates"]["adamw"]) == pytest.approx(3e-4)


def test_a_rate_that_no_rule_has_is_refused(exactly):
    optimizer = Muon()
    optimizer.state = keller().state
    message = (
        "the optimizer's state does not fit: it has a learning rate for 'adamw' (0.0003), which no "
        "rule here has; make the optimizer with the same groups, or remove the rate from the state"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        optimizer.init({"w": mx.ones((2, 2))})


def test_loaded_state_determines_kinds_that_names_do_not(gaussian, save_and_load):
    """From the tree of parameters alone, the last layer and the table would get Muon."""

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.lookup = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 4)
            self.last = nn.Linear(4, 3)

        def __call__(self, x):
            return self.last(self.head(self.lookup(x)))

    models = [Classifier(), Classifier()]
    models[1].update(models[0].parameters())
    # The state overrules names in both directions.
    group = Group("head.weight", MuonRule())
    optimizers = [Muon(0.1, groups=[group]), Muon(0.1, groups=[group])]
    for index in range(2):
        for model, optimizer in zip(models, optimizers, strict=True):
            loss_fn = nn.value_and_grad(model, lambda model: mx.square(model(mx.arange(5))).sum())
            if index == 1 and optimizer is optimizers[1]:
                loaded = Muon(0.1)
                loaded.state = save_and_load(optimizer.state)
                loaded.init(model.trainable_parameters())
                optimizer = loaded
            optimizer.update(model, loss_fn(model)[1])
    for path, array in flat(models[0].parameters()).items():
        assert mx.array_equal(flat(models[1].parameters())[path], array), path
