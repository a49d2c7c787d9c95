import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_muon import AdamWRule, Group, Muon, MuonRule, keller, load_mlx_state


def flat(tree):
    return dict(tree_flatten(tree))


# Its position makes it look like the output layer.
INNER = Group("layers.1.weight", MuonRule())


@pytest.fixture
def model_and_gradients(gaussian):
    """Return a model with an embedding, and a function that gives its gradients at a step."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6))
    for path, array in flat(model.parameters()).items():
        model.load_weights([(path, gaussian(*array.shape))], strict=False)

    def gradients_at(step):
        arrays = flat(model.parameters()).items()
        return tree_unflatten([(path, gaussian(*a.shape, seed=step)) for path, a in arrays])

    return model, gradients_at


def trained_by(optimizer, model, gradients_at):
    for step in range(3):
        optimizer.update(model, gradients_at(step))
    return optimizer.state


def test_state_of_mlx_muon_gives_its_momenta(model_and_gradients):
    model, gradients_at = model_and_gradients
    state = trained_by(optim.Muon(0.02), model, gradients_at)
    optimizer = keller(groups=[INNER])
    fresh = load_mlx_state(optimizer, state, model)
    assert fresh == ["layers.0.weight", "layers.1.bias"]
    found = flat(optimizer.state)
    assert mx.array_equal(
        found["parameters.layers.1.weight.momentum"], state["layers"][1]["weight"]["v"]
    )
    assert int(found["step"]) == 3
    assert int(found["parameters.layers.1.bias.count"]) == 0
    optimizer.update(model, gradients_at(3))
    assert int(optimizer.step) == 4


def test_training_with_the_state_of_mlx_adamw_resumes_exactly(model_and_gradients):
    model, gradients_at = model_and_gradients
    theirs = optim.AdamW(0.01, betas=[0.9, 0.95], weight_decay=0.1, bias_correction=True)
    state = trained_by(theirs, model, gradients_at)
    rule = AdamWRule(decay_vectors=True)
    ours = Muon(0.01, weight_decay=0.1, groups=[Group("*", rule)])
    assert load_mlx_state(ours, state, model.trainable_parameters()) == []
    gradients = gradients_at(3)
    found = flat(ours.apply_gradients(gradients, model))
    for path, array in flat(theirs.apply_gradients(gradients, model)).items():
        np.testing.assert_allclose(found[path], array, atol=1e-6, err_msg=path)


def test_state_of_a_multi_optimizer_gives_both(model_and_gradients):
    model, gradients_at = model_and_gradients
    theirs = optim.MultiOptimizer(
        [optim.Muon(0.02), optim.AdamW(0.01)], [lambda path, _: path == "layers.1.weight"]
    )
    state = trained_by(theirs, model, gradients_at)
    ours = keller(groups=[INNER], keep_mantissa=True)
    assert load_mlx_state(ours, state, model) == []
    found = flat(ours.state)
    muon, adamw = (flat(each) for each in state["states"])
    assert mx.array_equal(found["parameters.layers.1.weight.momentum"], muon["layers.1.weight.v"])
    for path in ("layers.0.weight", "layers.1.bias"):
        for name in "mv":
            assert mx.array_equal(found[f"parameters.{path}.{name}"], adamw[f"{path}.{name}"])
        assert int(found[f"parameters.{path}.count"]) == 3


def test_parameters_missing_in_the_state_start_fresh(model_and_gradients):
    model, _ = model_and_gradients
    model.layers[0].freeze()
    state = optim.AdamW(0.01).state
    assert load_mlx_state(keller(), state, model) == ["layers.1.weight", "layers.1.bias"]


def test_state_of_another_model_is_refused_whole(model_and_gradients, exactly):
    model, gradients_at = model_and_gradients
    state = trained_by(optim.Muon(0.02), model, gradients_at)
    other = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 7))
    optimizer = keller()
    message = (
        "layers.1.weight: the state to load has shape (6, 4) in 'v', but the parameter has (7, 4)"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        load_mlx_state(optimizer, state, other)
    assert int(optimizer.step) == 0
