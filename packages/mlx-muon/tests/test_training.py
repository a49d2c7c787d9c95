"""The optimizer as a replacement of AdamW: models, trees, frozen layers, loops."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_muon import AdamWRule, Group, Muon, MuonRule, adamuon, keller, moonlight, nanochat, normuon

PRESETS = {
    "keller": lambda: keller(0.05),
    "moonlight": lambda: moonlight(0.02),
    "normuon": lambda: normuon(0.05),
    "adamuon": lambda: adamuon(0.02),
    "nanochat": lambda: nanochat(16, 40, learning_rate=0.05, warmup_steps=4),
    "default": lambda: Muon(0.02),
}


class Network(nn.Module):
    """Unusual contents of a model: a list with empty entries, a dict with digits, a scalar."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.layers = [nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh()]
        self.by_layer = {"1": nn.Linear(8, 8), "3": nn.Linear(8, 8, bias=False)}
        self.nothing = []
        self.scale = mx.array(1.0)
        self.lm_head = nn.Linear(8, 7, bias=False)

    def __call__(self, x):
        x = self.table(x)
        for layer in self.layers:
            x = layer(x)
        for layer in self.by_layer.values():
            x = x + layer(x)
        return self.lm_head(self.scale * x)


@pytest.fixture
def network(gaussian):
    network = Network()
    return network.update(
        tree_map(
            lambda array: gaussian(*array.shape, seed=array.size, sigma=0.4), network.parameters()
        )
    )


def loss_fn(network, x):
    """The loss of predicting the next number of a cycle."""
    return nn.losses.cross_entropy(network(x), (x + 1) % 7).mean()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns(name, network):
    optimizer, losses = PRESETS[name](), []
    value_and_grad = nn.value_and_grad(network, loss_fn)
    for _ in range(40):
        loss, gradients = value_and_grad(network, mx.arange(7))
        optimizer.update(network, gradients)
        mx.eval(network.parameters(), optimizer.state)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "trained",
    [["layers.1"], ["layers.3"], ["by_layer.3"], ["table", "lm_head"], ["by_layer.1", "layers.1"]],
)
def test_frozen_parameters_stay_and_the_others_move(trained, network):
    network.freeze()
    for name, module in network.named_modules():
        if name in trained:
            module.unfreeze()
    network.freeze(keys=["scale"], recurse=False)
    before = dict(tree_flatten(network.parameters()))
    optimizer = keller()
    value_and_grad = nn.value_and_grad(network, loss_fn)
    for _ in range(2):
        optimizer.update(network, value_and_grad(network, mx.arange(7))[1])
    for path, array in tree_flatten(network.parameters()):
        assert mx.array_equal(array, before[path]) != path.startswith(tuple(trained)), path
    network.unfreeze()
    optimizer.update(network, value_and_grad(network, mx.arange(7))[1])
    for path, array in tree_flatten(network.parameters()):
        assert not mx.array_equal(array, before[path]), path


def test_a_tree_of_parameters_gives_the_same_as_the_model(network):
    _, gradients = nn.value_and_grad(network, loss_fn)(network, mx.arange(7))
    parameters = network.parameters()
    groups = [Group("table.*", AdamWRule(learning_rate=3e-4, eps=1e-10))]
    found = keller(groups=groups).apply_gradients(gradients, parameters)
    keller().update(network, gradients)
    for path, array in tree_flatten(network.parameters()):
        assert mx.array_equal(dict(tree_flatten(found))[path], array), path


def test_apply_gradients_returns_the_structure_of_the_gradients(gaussian):
    parameters = {"a": [{}, {"w": gaussian(3, 3)}, {}], "b": {"c": gaussian(3)}, "d": [], "e": {}}
    gradients = tree_map(mx.ones_like, {key: parameters[key] for key in "ade"})
    found = keller().apply_gradients(gradients, parameters)
    assert tree_map(lambda array: array.shape, found) == {
        "a": [{}, {"w": (3, 3)}, {}],
        "d": [],
        "e": {},
    }


def test_nothing_to_train_is_no_error():
    optimizer = keller()
    assert optimizer.apply_gradients({}, {}) == {}
    optimizer.update(nn.ReLU(), {})
    assert int(optimizer.step) == 2
    assert optimizer.explain(nn.ReLU()) == ""


def test_init_is_optional_and_updates_may_be_applied_by_hand(network):
    _, gradients = nn.value_and_grad(network, loss_fn)(network, mx.arange(7))
    initialized = keller()
    initialized.init(network)
    found = [
        dict(tree_flatten(optimizer.apply_gradients(gradients, network)))
        for optimizer in (keller(), initialized)
    ]
    keller().update(network, gradients)
    for path, array in tree_flatten(network.parameters()):
        assert mx.array_equal(found[0][path], array), path
        assert mx.array_equal(found[1][path], array), path


def test_a_muon_rule_for_a_vector_is_refused_at_the_first_update(exactly):
    model = nn.Linear(2, 2)
    optimizer = Muon(groups=[Group("*", MuonRule(), "everything")])
    message = (
        "group 'everything': bias: shape (2,) is not a matrix, which Muon needs; give it an "
        "AdamWRule, or let the group match only arrays with ndim >= 2"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        optimizer.update(model, tree_map(mx.zeros_like, model.parameters()))
