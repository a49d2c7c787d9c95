import mlx.core as mx
import numpy as np
import pytest

from mlx_muon import qk_clip

HEAD_DIM, HIDDEN, LENGTH = 4, 12, 9


def logits_of(x, q_weight, k_weight, q_heads):
    """Return q k / sqrt(head_dim) of every query head, (heads, length, length)."""
    q = (x @ np.array(q_weight).T).reshape(LENGTH, q_heads, HEAD_DIM)
    k_heads = k_weight.shape[0] // HEAD_DIM
    k = (x @ np.array(k_weight).T).reshape(LENGTH, k_heads, HEAD_DIM)
    k = np.repeat(k, q_heads // k_heads, axis=1)
    return np.einsum("qhd,khd->hqk", q, k) / np.sqrt(HEAD_DIM)


@pytest.mark.parametrize(("q_heads", "k_heads"), [(4, 4), (6, 2), (6, 1), (1, 1)])
@pytest.mark.parametrize("tau", [0.5, 4.0, 1000.0])
def test_afterwards_no_logit_of_a_head_is_above_tau(q_heads, k_heads, tau, gaussian):
    x = np.array(gaussian(LENGTH, HIDDEN))
    q, k = (gaussian(heads * HEAD_DIM, HIDDEN, seed=heads) for heads in (q_heads, k_heads))
    # Heads of very different size; those of one key head too.
    q = q * mx.repeat(mx.array([1.0, 0.1, 0.5, 2.0, 1.0, 0.3])[:q_heads], HEAD_DIM)[:, None]
    before = logits_of(x, q, k, q_heads)
    largest = before.max(axis=(1, 2))
    new_q, new_k = qk_clip(q, k, mx.array(largest.astype(np.float32)), tau)
    after = logits_of(x, new_q, new_k, q_heads)
    factors = np.minimum(1, tau / largest)
    np.testing.assert_allclose(after, before * factors[:, None, None], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.max(axis=(1, 2)), np.minimum(largest, tau), rtol=1e-5)


def test_without_shared_keys_both_weights_shrink_equally(gaussian):
    q, k = gaussian(8, HIDDEN), gaussian(8, HIDDEN, seed=1)
    new_q, new_k = qk_clip(q, k, mx.array([400.0, 50.0]))
    np.testing.assert_allclose(new_q[:4], q[:4] / 2, rtol=1e-6)
    np.testing.assert_allclose(new_k[:4], k[:4] / 2, rtol=1e-6)
    assert mx.array_equal(new_q[4:], q[4:])
    assert mx.array_equal(new_k[4:], k[4:])


def test_a_shared_key_head_shrinks_by_the_root_of_what_its_worst_query_head_needs(gaussian):
    q, k = gaussian(8, HIDDEN), gaussian(4, HIDDEN, seed=1)
    new_q, new_k = qk_clip(q, k, mx.array([400.0, 100.0]))
    np.testing.assert_allclose(new_k, k / 2, rtol=1e-6)
    np.testing.assert_allclose(new_q[:4], q[:4] / 2, rtol=1e-6)
    np.testing.assert_allclose(new_q[4:], q[4:] * 2, rtol=1e-6)


@pytest.mark.parametrize("largest", [-5.0, 0.0, 100.0])
def test_logits_of_tau_and_below_change_nothing(largest, gaussian):
    q, k = gaussian(4, HIDDEN), gaussian(4, HIDDEN, seed=1)
    new_q, new_k = qk_clip(q, k, mx.array([largest]))
    assert mx.array_equal(new_q, q)
    assert mx.array_equal(new_k, k)


def test_dtypes_stay_and_it_runs_compiled(gaussian):
    q, k = gaussian(4, HIDDEN).astype(mx.bfloat16), gaussian(4, HIDDEN, seed=1)
    found = mx.compile(qk_clip)(q, k, mx.array([400.0], mx.bfloat16))
    assert [each.dtype for each in found] == [mx.bfloat16, mx.float32]
    np.testing.assert_allclose(found[1], k / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (mx.zeros((8, 3)), mx.zeros((8, 3)), mx.zeros(3)),
            "max_logits must have one number for each query head: shape (3,) does not divide the "
            "8 rows of q_weight",
        ),
        (
            (mx.zeros((8, 3)), mx.zeros((8, 3)), mx.zeros((2, 1))),
            "max_logits must have one number for each query head: shape (2, 1) does not divide "
            "the 8 rows of q_weight",
        ),
        (
            (mx.zeros((8, 3)), mx.zeros((6, 3)), mx.zeros(2)),
            "k_weight has 6 rows, not a number of heads of 4 rows that 2 query heads could share",
        ),
        (
            (mx.zeros((12, 3)), mx.zeros((8, 3)), mx.zeros(3)),
            "k_weight has 8 rows, not a number of heads of 4 rows that 3 query heads could share",
        ),
        ((mx.zeros((8, 3)), mx.zeros((8, 3)), mx.zeros(2), 0), "tau must be positive, got 0"),
    ],
)
def test_heads_that_do_not_divide_are_refused(arguments, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        qk_clip(*arguments)
