"""What holds for every head, whatever its task."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_heads import (
    ClassificationHead,
    ClassNumberHead,
    CoralHead,
    CornHead,
    CumulativeLinkHead,
    EmbeddingHead,
    ForecastHead,
    GaussianHead,
    LogRegressionHead,
    MultilabelHead,
    QuantileHead,
    RankingHead,
    RegressionHead,
)

B, L, D, F, HISTORY = 6, 5, 8, 3, 7
OPTIONS = {
    "pooling": "attention+cls",
    "hidden_layer_size": 4,
    "num_features": F,
    "feature_size": 5,
    "dropout": 0.0,
}

# Head class, size, its own options, the shape of outputs and of predictions of one row.
HEADS = {
    "binary": (ClassificationHead, 2, {}, (), (2,)),
    "multiclass": (ClassificationHead, 3, {}, (3,), (3,)),
    "multilabel": (MultilabelHead, 4, {}, (4,), (4,)),
    "multilabel, one label": (MultilabelHead, 1, {}, (1,), (1,)),
    "regression": (RegressionHead, 1, {}, (), ()),
    "regression, two targets": (RegressionHead, 2, {}, (2,), (2,)),
    "log regression": (LogRegressionHead, 1, {}, (), ()),
    "gaussian": (GaussianHead, 1, {}, (1, 2), ()),
    "gaussian, two targets": (GaussianHead, 2, {}, (2, 2), (2,)),
    "quantiles": (QuantileHead, 1, {}, (1, 3), (1, 3)),
    "quantiles, two targets": (QuantileHead, 2, {"levels": [0.1, 0.9]}, (2, 2), (2, 2)),
    "one quantile": (QuantileHead, 1, {"levels": [0.5]}, (1, 1), (1, 1)),
    "coral": (CoralHead, 4, {}, (3,), (4,)),
    "corn": (CornHead, 4, {}, (3,), (4,)),
    "corn, two classes": (CornHead, 2, {}, (1,), (2,)),
    "logit": (CumulativeLinkHead, 4, {}, (3,), (4,)),
    "probit": (CumulativeLinkHead, 4, {"link": "probit"}, (3,), (4,)),
    "cloglog": (CumulativeLinkHead, 4, {"link": "cloglog"}, (3,), (4,)),
    "cumulative, two classes": (CumulativeLinkHead, 2, {}, (1,), (2,)),
    "class number": (ClassNumberHead, 4, {}, (), ()),
    "embedding": (EmbeddingHead, 5, {}, (5,), (5,)),
    "ranking": (RankingHead, 1, {}, (), ()),
    "forecast of text": (ForecastHead, 4, {}, (4,), (4,)),
    "forecast": (ForecastHead, 4, {"history_length": HISTORY}, (4,), (4,)),
    "forecast, one step": (ForecastHead, 1, {"history_length": HISTORY}, (1,), (1,)),
    "forecast, plain": (
        ForecastHead,
        4,
        {"history_length": HISTORY, "decompose": False, "normalize": False},
        (4,),
        (4,),
    ),
    "forecast, gaussian": (
        ForecastHead,
        4,
        {"history_length": HISTORY, "distribution": "gaussian"},
        (4, 2),
        (4,),
    ),
    "forecast, quantiles": (
        ForecastHead,
        4,
        {"history_length": HISTORY, "levels": (0.2, 0.5, 0.8)},
        (4, 3),
        (4, 3),
    ),
}
POOLED = {
    "attention.query",
    "hidden_layer.bias",
    "hidden_layer.weight",
    "numeric.input.bias",
    "numeric.input.weight",
    "numeric.output.bias",
    "numeric.output.weight",
    "output.weight",
    "skip.weight",
}

every_head = pytest.mark.parametrize("name", HEADS)


def build(name, seed=0, **options):
    head, size, own, _, _ = HEADS[name]
    return head(D, size, **{**OPTIONS, **own, "seed": seed, **options})


def some_inputs(name, seed=0):
    """Return the head's arguments: hidden states, mask, features and, for forecasts, history."""
    random = np.random.default_rng(seed)
    hidden = mx.array(random.normal(size=(B, L, D)).astype(np.float32))
    mask = mx.array(np.arange(L) < random.integers(1, L + 1, (B, 1)))
    features = mx.array(random.normal(size=(B, F)).astype(np.float32))
    if "history_length" not in HEADS[name][2]:
        return hidden, mask, features
    return hidden, mask, features, mx.array(random.normal(size=(B, HISTORY)).astype(np.float32))


def randomize(head, seed=1):
    """Give every parameter a random value, so that those initialized to zero matter too."""
    random = np.random.default_rng(seed)
    for path, value in tree_flatten(head.parameters()):
        noise = mx.array(0.3 * random.normal(size=value.shape).astype(np.float32))
        head.load_weights([(path, value + noise)], strict=False)
    return head


@every_head
def test_outputs_and_predictions_have_the_shapes_of_the_task(name):
    head = build(name)
    outputs = head(*some_inputs(name))
    assert outputs.shape == (B, *HEADS[name][3]) == (B, *head.output_shape)
    predictions = head.predict(outputs)
    assert predictions.shape == (B, *HEADS[name][4])
    assert predictions.dtype == mx.float32
    assert bool(mx.isfinite(predictions).all())


@every_head
def test_trainable_parameters_are_listed_and_hold_no_buffer(name):
    own = {
        CoralHead: {"biases"},
        CumulativeLinkHead: {"threshold_steps"},
    }.get(HEADS[name][0], {"output.bias"})
    if "history_length" in HEADS[name][2]:
        own = own | {"history.weight"}
        own = own | ({"trend.weight"} if HEADS[name][2].get("decompose", True) else set())
    head = build(name)
    assert {path for path, _ in tree_flatten(head.trainable_parameters())} == POOLED | own
    assert {path for path, _ in tree_flatten(head.parameters())} == POOLED | own


@every_head
def test_every_parameter_has_a_gradient(name):
    head, inputs = randomize(build(name)), some_inputs(name)
    random = np.random.default_rng(2)
    direction = mx.array(random.normal(size=(B, *HEADS[name][3])).astype(np.float32))

    def loss():
        return (head(*inputs) * direction).sum()

    value, gradients = nn.value_and_grad(head, loss)()
    assert np.isfinite(float(value))
    for path, gradient in tree_flatten(gradients):
        assert bool(mx.isfinite(gradient).all()), path
        assert np.array(gradient).any(), path


@every_head
def test_padding_on_either_side_has_no_effect(name):
    head = randomize(build(name, pooling="attention+cls+last+mean+max"))
    hidden, mask, *rest = some_inputs(name)
    outputs = np.array(head(hidden, mask, *rest))
    for left, right in ((3, 0), (0, 4), (2, 1)):
        padded = mx.pad(hidden, [(0, 0), (left, right), (0, 0)], constant_values=mx.nan)
        longer = mx.pad(mask, [(0, 0), (left, right)])
        # The order of float32 sums; values and slopes are near 1.
        np.testing.assert_allclose(np.array(head(padded, longer, *rest)), outputs, atol=1e-5)


@every_head
def test_a_batch_of_padding_gives_finite_outputs_and_gradients(name):
    head = randomize(build(name))
    hidden, mask, *rest = some_inputs(name)

    def loss():
        return head(mx.full(hidden.shape, mx.nan), mx.zeros_like(mask), *rest).sum()

    value, gradients = nn.value_and_grad(head, loss)()
    assert np.isfinite(float(value))
    assert all(bool(mx.isfinite(each).all()) for _, each in tree_flatten(gradients))


@every_head
def test_compiled_outputs_predictions_and_gradients_are_the_same(name):
    head, inputs = randomize(build(name)), some_inputs(name)

    def step(*inputs):
        def loss():
            outputs = head(*inputs)
            return mx.square(outputs).sum(), (outputs, head.predict(outputs))

        (_, results), gradients = nn.value_and_grad(head, loss)()
        return results, gradients

    before = head.loss_options
    plain = tree_flatten(step(*inputs))
    compiled = dict(tree_flatten(mx.compile(step, inputs=head.state, outputs=head.state)(*inputs)))
    for path, value in plain:
        # Fused kernels round differently; gradients reach 100.
        np.testing.assert_allclose(
            np.array(compiled[path]), np.array(value), rtol=1e-4, atol=1e-4, err_msg=path
        )
    assert head.loss_options == before  # the state that a compiled step returns is arrays alone


@every_head
def test_initial_weights_depend_on_the_seed_alone(name):
    mx.random.seed(1)
    first = dict(tree_flatten(build(name, seed=5).parameters()))
    mx.random.seed(2)
    again = dict(tree_flatten(build(name, seed=5).parameters()))
    other = dict(tree_flatten(build(name, seed=6).parameters()))
    assert all(mx.array_equal(first[path], again[path]) for path in first)
    assert not mx.array_equal(first["output.weight"], other["output.weight"])


@every_head
def test_saved_weights_restore_the_outputs(name, tmp_path):
    head, inputs = randomize(build(name)), some_inputs(name)
    head.save_weights(str(tmp_path / "head.safetensors"))
    other = build(name, seed=9)
    other.load_weights(str(tmp_path / "head.safetensors"))
    assert mx.array_equal(other(*inputs), head(*inputs))


@every_head
def test_pooled_vectors_count_as_one_token(name):
    head = randomize(build(name))
    hidden, _, *rest = some_inputs(name)
    one_token = head(hidden[:, :1], mx.ones((B, 1), mx.bool_), *rest)
    assert mx.array_equal(head(hidden[:, 0], None, *rest), one_token)


@every_head
def test_half_precision_outputs_are_near_those_of_float32(name):
    head, inputs = randomize(build(name)), some_inputs(name)
    expected = np.array(head.predict(head(*inputs)))
    head.set_dtype(mx.bfloat16)
    low = head(*(each if each.dtype == mx.bool_ else each.astype(mx.bfloat16) for each in inputs))
    # bfloat16 has three digits; expm1 multiplies an error by the value.
    np.testing.assert_allclose(np.array(head.predict(low)), expected, rtol=0.1, atol=0.1)


@every_head
def test_outputs_of_another_head_are_refused(name):
    head, shape = build(name), HEADS[name][3]
    expected = ", ".join(map(str, ("B", *shape))) if shape else "B,"
    message = rf"^outputs of this head have shape \({expected}\), got \(6, 11\)$"
    with pytest.raises(ValueError, match=message):
        head.predict(mx.zeros((6, 11)))


def test_masks_and_pooled_vectors_exclude_each_other():
    head = RegressionHead(8)
    message = (
        r"^pooled vectors have no tokens: pass attention_mask=None with hidden of shape \(6, 8\)$"
    )
    with pytest.raises(ValueError, match=message):
        head(mx.zeros((6, 8)), mx.ones((6, 1), mx.bool_))
    message = (
        r"^attention_mask may be None only for pooled vectors \(B, 8\), "
        r"got hidden of shape \(6, 5, 8\)$"
    )
    with pytest.raises(ValueError, match=message):
        head(mx.zeros((6, 5, 8)), None)
