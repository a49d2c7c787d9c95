"""The loss in chunks is the plain one, and never holds the logits of all tokens."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.training import losses
from mlx_gpt.training.losses import loss_sum, target_losses, token_losses

VOCABULARY, DIMS = 37, 8


def batch(rows: int = 3, tokens: int = 5, seed: int = 0, ignored: float = 0.3):
    """Hidden states, head, targets of which a share is ignored, weights of tokens."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(rows, tokens, DIMS)).astype(np.float32)
    head = random.normal(scale=2, size=(VOCABULARY, DIMS)).astype(np.float32)
    targets = random.integers(0, VOCABULARY, (rows, tokens))
    targets[random.random((rows, tokens)) < ignored] = -1
    weights = random.uniform(-1, 2, (rows, tokens)).astype(np.float32)
    return mx.array(hidden), mx.array(head), mx.array(targets), mx.array(weights)


def plain_losses(hidden, head, targets, cap) -> mx.array:
    logits = hidden.astype(mx.float32) @ head.T
    if cap is not None:
        logits = cap * mx.tanh(logits / cap)
    each = nn.losses.cross_entropy(logits, mx.maximum(targets, 0))
    return mx.where(targets == -1, 0, each)


def assert_near(got: mx.array, expected: mx.array, tolerance: float = 1e-5) -> None:
    assert got.shape == expected.shape
    assert mx.abs(got - expected).max() <= tolerance * max(1, mx.abs(expected).max().item())


@pytest.fixture(params=[1, 3 * VOCABULARY, 7 * VOCABULARY + 5, 1 << 24], ids=lambda n: f"{n}")
def chunk_logits(request, monkeypatch) -> int:
    """Chunks of one token, of three, of seven (the last is shorter), of all."""
    monkeypatch.setattr(losses, "CHUNK_LOGITS", request.param)
    return request.param


@pytest.mark.parametrize("cap", [None, 15.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients_are_those_of_plain_cross_entropy(chunk_logits, cap, weighted):
    hidden, head, targets, weights = batch()
    given_weights = weights if weighted else None

    def chunked(hidden, head):
        return loss_sum(hidden, head, targets, given_weights, cap)

    def plain(hidden, head):
        each = plain_losses(hidden, head, targets, cap)
        return (each * weights).sum() if weighted else each.sum()

    value, gradients = mx.value_and_grad(chunked, (0, 1))(hidden, head)
    expected, expected_gradients = mx.value_and_grad(plain, (0, 1))(hidden, head)
    assert_near(value, expected)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert_near(gradient, other)


@pytest.mark.parametrize("cap", [None, 15.0])
def test_losses_of_tokens_are_those_of_plain_cross_entropy(chunk_logits, cap):
    hidden, head, targets, _ = batch()
    got = token_losses(hidden, head, targets, cap)
    assert got.dtype == mx.float32
    assert_near(got, plain_losses(hidden, head, targets, cap))


def test_a_loss_by_hand():
    hidden, head = mx.array([[1.0, 0.0]]), mx.array([[2.0, 5.0], [0.0, 5.0], [0.0, 7.0]])
    expected = math.log(math.exp(2) + 2) - 2
    assert token_losses(hidden, head, mx.array([0])).tolist() == pytest.approx([expected])
    capped = math.tanh(2)
    expected = math.log(math.exp(capped) + 2) - capped
    assert loss_sum(hidden, head, mx.array([0]), cap=1.0).item() == pytest.approx(expected)


def test_gradients_scale_with_what_is_made_of_the_loss():
    hidden, head, targets, weights = batch()
    once = mx.grad(lambda h: loss_sum(h, head, targets, weights))(hidden)
    scaled = mx.grad(lambda h: -3 * loss_sum(h, head, targets, weights))(hidden)
    assert_near(scaled, -3 * once)


def test_weights_of_tokens_get_no_gradient():
    hidden, head, targets, weights = batch()
    gradient = mx.grad(lambda w: loss_sum(hidden, head, targets, w))(weights)
    assert not gradient.any()


@pytest.mark.parametrize("cap", [None, 15.0])
def test_a_batch_of_which_all_is_ignored_has_no_loss_and_no_gradient(chunk_logits, cap):
    hidden, head, targets, weights = batch(ignored=1.1)
    assert (targets == -1).all()
    value, gradients = mx.value_and_grad(
        lambda h, w: loss_sum(h, w, targets, weights, cap), (0, 1)
    )(hidden, head)
    assert value.item() == 0
    assert not any(gradient.any() for gradient in gradients)
    assert not token_losses(hidden, head, targets, cap).any()


def test_ignored_tokens_change_nothing_whatever_their_states():
    hidden, head, targets, _ = batch()
    huge = mx.where((targets == -1)[..., None], 1e4, hidden)
    run = mx.value_and_grad(lambda h, w: loss_sum(h, w, targets, cap=15.0), (0, 1))
    (value, (_, gradient)), (expected, (_, expected_gradient)) = run(huge, head), run(hidden, head)
    assert value.item() == pytest.approx(expected.item())
    assert_near(gradient, expected_gradient)


@pytest.mark.parametrize("cap", [None, 15.0])
def test_extreme_logits_give_finite_losses_and_gradients(cap):
    hidden, head, targets, _ = batch()
    value, gradients = mx.value_and_grad(lambda h, w: loss_sum(h, w, targets, cap=cap), (0, 1))(
        1e4 * hidden, head
    )
    assert mx.isfinite(value)
    assert all(mx.isfinite(gradient).all() for gradient in gradients)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 1000))
def test_the_sum_is_that_of_the_tokens(rows, tokens, seed):
    hidden, head, targets, weights = batch(rows, tokens, seed)
    each = token_losses(hidden, head, targets, 15.0)
    assert_near(loss_sum(hidden, head, targets, weights, 15.0), (each * weights).sum())


def test_bfloat16_states_give_a_float32_loss_and_gradients_of_their_type(chunk_logits):
    hidden, head, targets, weights = batch()
    halves = hidden.astype(mx.bfloat16)

    def chunked(hidden, head):
        return loss_sum(hidden, head, targets, weights, 15.0)

    def plain(hidden, head):
        return (plain_losses(hidden, head, targets, 15.0) * weights).sum()

    value, (for_hidden, for_head) = mx.value_and_grad(chunked, (0, 1))(halves, head)
    expected, gradients = mx.value_and_grad(plain, (0, 1))(halves, head)
    assert (value.dtype, for_hidden.dtype, for_head.dtype) == (mx.float32, mx.bfloat16, mx.float32)
    # bfloat16 has 8 bits: the head and the logits are rounded to them.
    assert_near(value, expected, 0.01)
    assert_near(for_hidden.astype(mx.float32), gradients[0].astype(mx.float32), 0.03)
    assert_near(for_head, gradients[1], 0.03)


def peak_bytes(function, *arrays: mx.array) -> int:
    mx.eval(*arrays)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(function(*arrays))
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("wrap", [lambda function: function, mx.compile], ids=["eager", "compiled"])
def test_the_logits_of_all_tokens_never_exist_at_once(monkeypatch, compiled, wrap):
    tokens, vocabulary = 1024, 4096
    random = np.random.default_rng(0)
    hidden = mx.array(random.normal(size=(2, tokens // 2, DIMS)).astype(np.float32))
    head = mx.array(random.normal(size=(vocabulary, DIMS)).astype(np.float32))
    targets = mx.array(random.integers(0, vocabulary, (2, tokens // 2)))
    all_logits = 4 * tokens * vocabulary
    plain = mx.value_and_grad(lambda h, w: plain_losses(h, w, targets, 15.0).sum(), (0, 1))
    chunked = mx.value_and_grad(lambda h, w: loss_sum(h, w, targets, cap=15.0), (0, 1))
    assert peak_bytes(plain, hidden, head) > 3 * all_logits
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 64 * vocabulary)
    assert peak_bytes(wrap(chunked), hidden, head) < 0.75 * all_logits
    each = wrap(lambda h, w: token_losses(h, w, targets, 15.0))
    assert peak_bytes(each, hidden, head) < 0.75 * all_logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["trained", "frozen", "quantized"])
def test_losses_through_every_kind_of_head_are_the_plain_ones(kind, tied, monkeypatch):
    monkeypatch.setattr(losses, "FROZEN_CHUNK_TOKENS", 4)
    monkeypatch.setattr(losses, "FROZEN_CHUNK_LOGITS", 1)
    mx.random.seed(0)
    model = Llama(LlamaConfig(VOCABULARY, 32, 64, 1, 4, 2, 8, 64, tie_word_embeddings=tied))
    if kind == "quantized":
        nn.quantize(model, group_size=32, bits=4)
    if kind != "trained":
        model.freeze()
    random = np.random.default_rng(0)
    hidden, targets = mx.array(random.normal(size=(2, 5, 32))).astype(mx.float32), batch(2)[2]

    def plain(hidden):
        return plain_losses(hidden, model.head_weight, targets, None)

    expected, (slopes,) = mx.vjp(plain, [hidden], [mx.ones((2, 5))])
    found, (gradient,) = mx.vjp(
        lambda hidden: target_losses(model, hidden, targets), [hidden], [mx.ones((2, 5))]
    )
    assert_near(found[0], expected[0])
    assert_near(gradient, slopes)
