"""Adversarial training and R-Drop: laws, gradients, and a compiled step."""

import re
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mlx.utils import tree_flatten

from mlx_encoders import load_model
from mlx_encoders.adversarial import (
    awp_loss,
    awp_perturbation,
    fgm_loss,
    fgm_perturbation,
    r_drop_loss,
)

Kind = Literal["classes", "labels", "values"]
SMALL = st.floats(-1e3, 1e3, width=32)
IDS = mx.array([[1, 2, 3, 0], [4, 5, 0, 0]])
MASK = IDS > 0
LABELS = mx.array([0, 1])


class Network(nn.Module):
    """A classifier of token ids: embedding, dropout, a layer, the mean of the valid tokens."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.words = nn.Embedding(6, 4)
        self.layer = nn.Linear(4, 3)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(3, 2)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def __call__(self, input_ids=None, inputs_embeds=None):
        x = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        x = nn.gelu(self.dropout(x))  # compiled, which a nested gradient must not disturb
        x = mx.tanh(self.layer(x)) * MASK[..., None]
        return self.output(x.sum(1) / MASK.sum(1, keepdims=True))


@pytest.fixture
def network():
    mx.random.seed(0)
    return Network()


def cross_entropy(logits):
    return nn.losses.cross_entropy(logits, LABELS, reduction="sum")


def at_embeddings(model, embeddings):
    return cross_entropy(model(inputs_embeds=embeddings))


def at_weights(model):
    return cross_entropy(model(IDS))


def flat(tree) -> dict[str, np.ndarray]:
    return {path: np.array(array) for path, array in tree_flatten(tree)}


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.float32, (3, 4, 2), elements=SMALL), st.floats(1e-3, 10), st.data())
def test_a_perturbation_has_the_norm_epsilon_in_each_row_and_none_at_padding(gradient, size, data):
    mask = data.draw(arrays.arrays(np.bool_, (3, 4)))
    delta = np.array(fgm_perturbation(mx.array(gradient), size, mx.array(mask)))
    given = (np.where(mask[..., None], gradient, 0) != 0).any((1, 2))
    norms = np.sqrt(np.square(delta.astype(np.float64)).sum((1, 2)))
    np.testing.assert_allclose(norms, np.where(given, size, 0), rtol=1e-5)
    assert (delta[~mask] == 0).all()
    assert (delta * gradient >= 0).all()  # up the gradient


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_the_scale_of_the_gradient_does_not_matter(scale):
    gradient = mx.random.normal((2, 3, 4), key=mx.random.key(0))
    expected = np.array(fgm_perturbation(gradient, 0.5))
    found = np.array(fgm_perturbation(gradient * scale, 0.5))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_awp_moves_each_array_by_gamma_times_its_norm():
    weights = {"a": mx.array([[3.0, 4.0]]), "b": mx.array([[1.0], [0.0]]), "c": mx.zeros((2, 2))}
    gradients = {"a": mx.array([[0.0, 2e-25]]), "b": mx.zeros((2, 1)), "c": mx.ones((2, 2))}
    found = awp_perturbation(weights, gradients, 0.1)
    np.testing.assert_allclose(np.array(found["a"]), [[0, 0.5]], rtol=1e-6)
    assert (np.array(found["b"]) == 0).all()  # no gradient: no NaN
    assert (np.array(found["c"]) == 0).all()  # nothing to be relative to


def test_a_zero_gradient_perturbs_nothing(network):
    def constant(model, embeddings=None):
        return 0 * at_weights(model) if embeddings is None else 0 * at_embeddings(model, embeddings)

    for value, gradients in (
        nn.value_and_grad(network, lambda: fgm_loss(constant, network, IDS, 1.0, MASK))(),
        nn.value_and_grad(network, lambda: awp_loss(constant, network, 0.1))(),
    ):
        assert value.item() == 0
        assert all((array == 0).all() for array in flat(gradients).values())


def test_fgm_is_the_mean_of_the_loss_and_the_loss_at_the_perturbed_embeddings(network):
    embeddings = network.words(IDS)
    noise = fgm_perturbation(mx.grad(lambda x: at_embeddings(network, x))(embeddings), 0.7, MASK)

    def expected():
        x = network.words(IDS)
        return (at_embeddings(network, x) + at_embeddings(network, x + noise)) / 2

    value, gradients = nn.value_and_grad(network, expected)()
    found = nn.value_and_grad(network, lambda: fgm_loss(at_embeddings, network, IDS, 0.7, MASK))()
    assert value.item() == pytest.approx(found[0].item(), rel=1e-6)
    assert value.item() > at_weights(network).item() + 0.01
    for path, array in flat(gradients).items():
        np.testing.assert_allclose(flat(found[1])[path], array, rtol=1e-5, atol=1e-7)


def test_awp_is_the_gradient_at_the_perturbed_weights(network):
    value, gradients = nn.value_and_grad(network, lambda: at_weights(network))()
    chosen = ("layer.weight", "output.weight")
    weights, slopes = dict(tree_flatten(network.parameters())), dict(tree_flatten(gradients))
    noise = awp_perturbation(
        {path: weights[path] for path in chosen}, {path: slopes[path] for path in chosen}, 0.2
    )
    other = Network()
    other.load_weights([(path, array + noise.get(path, 0)) for path, array in weights.items()])
    expected, gradients = nn.value_and_grad(other, lambda: at_weights(other))()
    found = nn.value_and_grad(
        network, lambda: awp_loss(at_weights, network, 0.2, lambda path, _: path in chosen)
    )()
    assert found[0].item() == pytest.approx(expected.item(), rel=1e-6)
    assert found[0].item() > value.item() + 0.01
    for path, array in flat(gradients).items():
        np.testing.assert_allclose(flat(found[1])[path], array, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["fgm", "awp"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_keeps_its_weights_in_a_compiled_step(method, frozen):
    mx.random.seed(0)
    network = Network(dropout=0.5)
    network.train()
    if frozen:
        network.words.freeze()
    mx.eval(network.parameters())
    before = flat(network.parameters())

    def sums():
        def loss(model, embeddings=None):
            return cross_entropy(model(IDS, embeddings)), mx.array(2.0)

        if method == "fgm":
            return fgm_loss(loss, network, IDS, 0.5, MASK)
        return awp_loss(loss, network, 0.1)

    state = [network.state, mx.random.state]
    plain = nn.value_and_grad(network, sums)
    step = mx.compile(plain, inputs=state, outputs=state)
    found = []
    for function in (plain, step, step):
        mx.random.seed(3 if function is plain or len(found) == 1 else 4)
        (loss, weight), gradients = function()
        mx.eval(loss, weight, gradients)
        found.append((loss.item(), weight.item(), flat(gradients)))
        after = flat(network.parameters())
        assert all((after[path] == array).all() for path, array in before.items())
    eager, compiled, other = found
    assert eager[:2] == pytest.approx(compiled[:2], rel=1e-5)
    assert other[0] != compiled[0]  # dropout is drawn anew
    assert ("words.weight" in eager[2]) is not frozen
    for path, array in eager[2].items():
        np.testing.assert_allclose(compiled[2][path], array, rtol=1e-4, atol=1e-6)


def test_the_model_keeps_its_weights_when_the_loss_fails(network):
    before = dict(tree_flatten(network.parameters()))

    def broken(*_):
        raise RuntimeError("no loss")

    for call in (
        lambda: fgm_loss(broken, network, IDS, 0.5),
        lambda: awp_loss(broken, network, 0.5),
    ):
        with pytest.raises(RuntimeError, match="no loss"):
            call()
        after = dict(tree_flatten(network.parameters()))
        assert all(after[path] is array for path, array in before.items())


LOGITS = arrays.arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32))


@settings(max_examples=50, deadline=None)
@given(LOGITS, LOGITS)
def test_r_drop_is_the_symmetric_divergence(a, b):
    x, y = a.astype(np.float64), b.astype(np.float64)
    log_p, log_q = (z - np.logaddexp.reduce(z, -1, keepdims=True) for z in (x, y))
    p, q = np.exp(log_p), np.exp(log_q)
    kl = 0.5 * ((p * (log_p - log_q)).sum(-1) + (q * (log_q - log_p)).sum(-1))
    u, v = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-y))
    expected: dict[Kind, np.ndarray] = {
        "classes": kl,
        "labels": (0.5 * (u - v) * (x - y)).mean(-1),
        "values": np.square(x - y).mean(-1),
    }
    for kind, rows in expected.items():
        found = np.array(r_drop_loss(mx.array(a), mx.array(b), kind))
        np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found, np.array(r_drop_loss(mx.array(b), mx.array(a), kind)))
        assert (np.array(r_drop_loss(mx.array(a), mx.array(a), kind)) == 0).all()


def test_wrong_arguments_are_named(network):
    gradient = mx.zeros((2, 3, 4))
    for call, message in (
        (lambda: fgm_perturbation(gradient[0], 1.0),
         "gradient must be (batch, length, size), got (3, 4)"),
        (lambda: fgm_perturbation(gradient, 0.0), "epsilon must be positive and finite, got 0.0"),
        (lambda: fgm_perturbation(gradient, 1.0, mx.ones((2, 4))),
         "attention_mask must be (2, 3), as the gradient, got (2, 4)"),
        (lambda: awp_perturbation({}, {}, float("nan")),
         "gamma must be positive and finite, got nan"),
        (lambda: awp_perturbation({"a": gradient}, {"b": gradient}, 1.0),
         "parameters and gradients must have the same keys; 'a' is in one"),
        (lambda: awp_loss(at_weights, network, 1.0, lambda path, array: False),
         "select chose no trainable parameter of the model; nothing to perturb"),
        (lambda: r_drop_loss(mx.zeros((2, 3)), mx.zeros((2, 4))),
         "both outputs must have one shape of at least two axes, got (2, 3) and (2, 4)"),
        (lambda: r_drop_loss(mx.zeros((2, 3)), mx.zeros((2, 3)), "rows"),  # type: ignore[arg-type]
         "kind must be 'classes', 'labels' or 'values', got 'rows'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


@pytest.mark.parametrize("method", ["fgm", "awp"])
def test_a_bert_has_the_gradients_of_torch(method, fixtures, read_case):
    case = read_case(fixtures / "bert" / "adversarial.safetensors")
    model, _ = load_model(fixtures / "bert")
    ids, mask = case["input_ids"], case["attention_mask"]

    def loss(model, embeddings=None):
        inputs = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
        states = model(attention_mask=mask, **inputs)
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return nn.losses.cross_entropy(pooled @ case["readout"], case["labels"], reduction="sum")

    def adversarial():
        if method == "fgm":
            return fgm_loss(loss, model, ids, 0.7, mask)
        return awp_loss(loss, model, 0.02)

    value, gradients = nn.value_and_grad(model, adversarial)()
    assert value.item() == pytest.approx(case[f"{method}.loss"].item(), rel=1e-5)
    found, compared = flat(gradients), 0
    for name, array in case.items():
        if name.startswith(f"{method}.gradient."):
            path = name.removeprefix(f"{method}.gradient.")
            expected = np.array(array)
            # The gradient of a key's bias is 0 but for rounding.
            largest = max(np.abs(expected).max(), 0.1)
            np.testing.assert_allclose(found[path], expected, atol=2e-5 * largest, rtol=1e-4)
            compared += 1
    assert compared == 11
