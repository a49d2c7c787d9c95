import copy
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_muon import AdamWRule, Group, Muon, MuonRule, keller


def group_of(optimizer, path, *shape):
    return optimizer.assignment(path, mx.zeros(shape)).group


@pytest.mark.parametrize(
    ("path", "shape", "kind"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (8, 8), "matrix"),
        ("model.layers.0.mlp.switch_mlp.up_proj.weight", (4, 8, 8), "matrix"),
        ("bert.encoder.layer.0.output.dense.weight", (8, 8), "matrix"),
        ("transformer.h.0.attn.ve_gate.weight", (2, 12), "matrix"),
        ("conv1.weight", (8, 3, 3, 4), "matrix"),
        ("layers.0.self_attn.q_proj.lora_a", (8, 2), "matrix"),
        ("model.embed_tokens.weight", (9, 8), "embedding"),
        ("tok_embeddings.weight", (9, 8), "embedding"),
        ("bert.embeddings.word_embeddings.weight", (9, 8), "embedding"),
        ("transformer.wte.weight", (9, 8), "embedding"),
        ("transformer.wpe.weight", (9, 8), "embedding"),
        ("value_embeds.1.weight", (9, 8), "embedding"),
        ("lm_head.weight", (9, 8), "head"),
        ("output.weight", (9, 8), "head"),
        ("classifier.weight", (9, 8), "head"),
        ("score.weight", (9, 8), "head"),
        ("qa_outputs.weight", (2, 8), "head"),
        ("model.layers.0.input_layernorm.weight", (8,), "norm or bias"),
        ("layers.0.bias", (8,), "norm or bias"),
        ("attention.relative_attention_bias.weight", (8, 4), "norm or bias"),
        ("resid_lambdas", (4,), "norm or bias"),
        ("temperature", (), "norm or bias"),
    ],
)
def test_name_and_shape_determine_the_kind(path, shape, kind):
    optimizer = Muon()
    assignment = optimizer.assignment(path, mx.zeros(shape))
    assert assignment.group == kind
    assert assignment.rule is (optimizer.muon if kind == "matrix" else optimizer.adamw)


class Model(nn.Module):
    """An embedding with an unusual name, a matrix, and an output layer."""

    def __init__(self):
        super().__init__()
        self.lookup = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def __call__(self, x):
        return self.out(self.linear(self.lookup(x)))


@pytest.mark.parametrize("first", ["update", "apply_gradients", "init"])
def test_embeddings_are_recognized_by_their_class(first):
    model, optimizer = Model(), Muon()
    _, gradients = nn.value_and_grad(model, lambda model: model(mx.arange(5)).sum())(model)
    if first == "update":
        optimizer.update(model, gradients)
    elif first == "apply_gradients":
        optimizer.apply_gradients(gradients, model)
    else:
        optimizer.init(model)
    assert group_of(optimizer, "lookup.weight", 5, 4) == "embedding"
    optimizer.init(model.trainable_parameters())
    assert set(optimizer.state["parameters"]["lookup"]["weight"]) == {"m", "v", "count"}
    assert set(optimizer.state["parameters"]["linear"]["weight"]) == {"momentum"}


@pytest.mark.parametrize("compile", [True, False])
def test_the_first_update_corrects_rules_that_init_chose_without_the_model(compile):
    model, optimizer = Model(), Muon(0.1)
    model.conv = nn.Sequential(nn.Conv1d(3, 6, 4, bias=False))
    expected, other = Model(), Muon(0.1)
    expected.conv = nn.Sequential(nn.Conv1d(3, 6, 4, bias=False))
    expected.update(model.parameters())
    optimizer.init(model.trainable_parameters())
    other.init(expected)
    for each, its in ((model, optimizer), (expected, other)):

        def update(x, each=each, its=its):
            def loss_fn(model, x):
                return (model.conv(model(x)[None]) ** 2).sum()

            its.update(each, nn.value_and_grad(each, loss_fn)(each, x)[1])

        state = [each.state, its.state]
        step = mx.compile(update, inputs=state, outputs=state) if compile else update
        for _ in range(4):
            step(mx.arange(5))
        mx.eval(state)
    assert dict(tree_flatten(other.state)).keys() == dict(tree_flatten(optimizer.state)).keys()
    for (path, found), (_, wanted) in zip(
        tree_flatten(model.parameters()), tree_flatten(expected.parameters()), strict=True
    ):
        assert mx.allclose(found, wanted, 1e-5, 1e-6), path
    assert "as 1 of 6x12" in optimizer.explain(model)


def test_explaining_changes_nothing():
    model, optimizer = Model(), Muon()
    assert "embedding: AdamW" in optimizer.explain(model)
    assert group_of(optimizer, "lookup.weight", 5, 4) == "matrix"


def test_indices_and_masks_are_left_alone():
    parameters = {"table": mx.arange(4).reshape(2, 2), "mask": mx.array([True]), "w": mx.eye(2)}
    gradients = {"table": mx.ones((2, 2)), "mask": mx.ones(1), "w": mx.eye(2)}
    optimizer = Muon(0.1, weight_decay=0.1)
    after = optimizer.apply_gradients(gradients, parameters)
    assert mx.array_equal(after["table"], parameters["table"])
    assert mx.array_equal(after["mask"], parameters["mask"])
    assert not mx.array_equal(after["w"], parameters["w"])
    assert list(optimizer.state["parameters"]) == ["w"]


def test_a_gradient_of_another_shape_is_refused():
    message = "w: the gradient has shape (2, 4), the parameter (4, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Muon().apply_gradients({"w": mx.ones((2, 4))}, {"w": mx.ones((4, 2))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"muon": 0.95}, "Muon: muon must be MuonRule, got 0.95"),
        ({"adamw": 3e-4}, "Muon: adamw must be AdamWRule, got 0.0003"),
        ({"groups": [("*", 1)]}, "Muon: groups must be a list of Group, got [('*', 1)]"),
    ],
)
def test_rules_of_a_wrong_type_are_refused(options, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Muon(**options)


def test_an_optimizer_can_be_copied():
    copied = copy.deepcopy(keller())
    assert copied.muon == keller().muon


@pytest.mark.parametrize(
    ("path", "shape", "kind"),
    [
        ("layers.0.self_attn.embed_q.weight", (4, 8, 8), "matrix"),
        ("layers.0.norm1.linear.weight", (12, 4), "matrix"),
        ("relative_attention_bias.weight", (32, 4), "norm or bias"),
        ("mixer.A_log", (8, 4), "norm or bias"),
        ("pos", (1, 9, 8), "embedding"),
        ("cls_token", (1, 1, 8), "embedding"),
        ("blocks.0.heads.1.weight", (8, 8), "matrix"),
        ("decoder.layers.0.fc1.weight", (8, 8), "matrix"),
        ("cls.predictions.decoder.weight", (50, 8), "head"),
        ("head.0.weight", (8, 8), "head"),
        ("empty.weight", (0, 5), "norm or bias"),
    ],
)
def test_names_determine_the_kind(path, shape, kind):
    assert Muon().assignment(path, mx.zeros(shape)).group == kind


def test_a_model_that_is_an_embedding_is_recognized():
    optimizer = Muon()
    optimizer.init(nn.Embedding(5, 4))
    assert set(optimizer.state["parameters"]["weight"]) == {"m", "v", "count"}


def test_the_first_group_that_matches_decides():
    first, second = MuonRule(momentum=0.5), AdamWRule(eps=1e-3)
    optimizer = Muon(
        groups=[
            Group("*.router.*", second, "routers"),
            Group(lambda path, array: array.shape[0] == 4, first),
            Group("layers.*", second),
        ]
    )
    assert group_of(optimizer, "layers.0.router.weight", 4, 4) == "routers"
    assert optimizer.assignment("layers.0.mlp.weight", mx.zeros((4, 8))).rule is first
    assert group_of(optimizer, "layers.0.mlp.weight", 4, 8) == "MuonRule"
    assert group_of(optimizer, "layers.0.mlp.weight", 8, 4) == "layers.*"
    assert group_of(optimizer, "other.weight", 8, 4) == "matrix"
    # Patterns match the whole path and are case-sensitive.
    assert group_of(optimizer, "Layers.0.weight", 8, 8) == "matrix"
    assert group_of(optimizer, "my.layers.0.weight", 8, 8) == "matrix"


def test_groups_may_give_muon_what_names_would_keep_from_it(gaussian):
    weight, gradient = gaussian(6, 4), gaussian(6, 4, seed=1)
    forced = Muon(0.1, groups=[Group("lm_head.weight", MuonRule())])
    found = forced.apply_gradients({"lm_head.weight": gradient}, {"lm_head.weight": weight})
    expected = Muon(0.1).apply_gradients({"w": gradient}, {"w": weight})
    assert mx.array_equal(found["lm_head.weight"], expected["w"])


SCALES = {
    "keller": lambda r, c: max(1, r / c) ** 0.5,
    "moonlight": lambda r, c: 0.2 * max(r, c) ** 0.5,
    "mup": lambda r, c: (r / c) ** 0.5,
    "none": lambda r, c: 1.0,
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (8, 8)])
def test_scale_is_a_factor_on_the_orthogonal_update(scale, shape, gaussian):
    rule = MuonRule(scale=scale, method="svd")
    gradient, zeros = gaussian(*shape), mx.zeros(shape)
    after = Muon(0.5, muon=rule).apply_gradients({"w": gradient}, {"w": zeros})["w"]
    found = np.linalg.svd(np.array(after), compute_uv=False)
    np.testing.assert_allclose(found, 0.5 * SCALES[scale](*shape), rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (8, 8)])
def test_scale_rms_makes_the_root_mean_square_a_fifth_of_the_rate(shape, gaussian):
    optimizer = Muon(0.5, muon=MuonRule(scale="rms"))
    after = optimizer.apply_gradients({"w": gaussian(*shape)}, {"w": mx.zeros(shape)})["w"]
    assert float(mx.sqrt(mx.mean(mx.square(after)))) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_nesterov_is_the_look_ahead_of_the_momentum(nesterov, gaussian):
    first, second, zeros = gaussian(4, 6), gaussian(4, 6, seed=1), mx.zeros((4, 6))
    optimizer = Muon(
        1.0, muon=MuonRule(nesterov=nesterov, method="svd", scale="none", momentum=0.5)
    )
    optimizer.apply_gradients({"w": first}, {"w": zeros})
    after = optimizer.apply_gradients({"w": second}, {"w": zeros})["w"]
    momentum = np.array(0.25 * first + 0.5 * second)
    u, _, v = np.linalg.svd(0.5 * np.array(second) + 0.5 * momentum if nesterov else momentum)
    np.testing.assert_allclose(after, -u @ v[:4], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Muon(-1), "Muon: learning_rate must not be negative, got -1"),
        (lambda: Muon(float("nan")), "Muon: learning_rate must not be negative, got nan"),
        (lambda: Muon(1, weight_decay=-0.1), "Muon: weight_decay must not be negative, got -0.1"),
        (
            lambda: Muon(lambda step: 1.0, schedule=lambda step: 1.0),
            "Muon: give a schedule, or a learning_rate that is one, not both",
        ),
        (
            lambda: Muon(max_batch_bytes=-1),
            "Muon: max_batch_bytes must not be negative, got -1",
        ),
        (
            lambda: MuonRule(learning_rate=-1),
            "MuonRule: learning_rate must not be negative, got -1",
        ),
        (
            lambda: MuonRule(weight_decay=-1),
            "MuonRule: weight_decay must not be negative, got -1",
        ),
        (lambda: MuonRule(momentum=1.0), "MuonRule: momentum must be in [0, 1), got 1.0"),
        (lambda: MuonRule(beta2=-0.1), "MuonRule: beta2 must be in [0, 1), got -0.1"),
        (
            lambda: MuonRule(scale="original"),
            "MuonRule: scale must be one of 'keller', 'moonlight', 'mup', 'rms', 'none'; "
            "got 'original'",
        ),
        (
            lambda: MuonRule(variance="columns"),
            "MuonRule: variance must be one of 'none', 'rows', 'short', 'entries'; got 'columns'",
        ),
        (
            lambda: MuonRule(norm="spectral"),
            "MuonRule: norm must be one of 'frobenius', 'schatten4', 'aol', 'none'; got 'spectral'",
        ),
        (
            lambda: MuonRule(kind="linear"),
            "MuonRule: kind must be one of None, 'convolution', 'experts'; got 'linear'",
        ),
        (
            lambda: MuonRule(method="ns5"),
            "method must be one of polar_express, newton_schulz, dion, svd, or coefficients; "
            "got 'ns5'",
        ),
        (lambda: MuonRule(steps=0), "steps must be at least 1, got 0"),
        (lambda: MuonRule(split=(1, 2), heads=3), "MuonRule: give split or heads, not both"),
        (lambda: MuonRule(heads=0), "MuonRule: heads must be at least 1, got 0"),
    ],
)
def test_invalid_arguments_are_refused(make, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        make()


def test_a_group_needs_a_rule(exactly):
    message = "Group: rule must be a MuonRule or AdamWRule, got 'adamw'"
    with pytest.raises(TypeError, match=exactly(message)):
        Group("*", "adamw")


def test_a_model_seen_after_the_first_update_changes_no_rule():
    model, optimizer = Model(), Muon(0.1)
    _, gradients = nn.value_and_grad(model, lambda model: model(mx.arange(5)).sum())(model)
    optimizer.apply_gradients(gradients, model.trainable_parameters())
    optimizer.update(model, gradients)
    assert set(optimizer.state["parameters"]["lookup"]["weight"]) == {"momentum"}
