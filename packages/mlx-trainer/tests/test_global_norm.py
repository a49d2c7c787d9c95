import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_trainer import global_norm, safe_sum


def test_norm_of_an_embedding_gradient_is_right_where_the_plain_sum_may_not_be():
    gradient = mx.full((30522, 768), 0.01)
    exact = math.sqrt(30522 * 768) * 0.01
    # On CPU mx.sum gives 2048 for the squares, a norm 6.5 % too low.
    assert float(global_norm({"embedding": gradient})) == pytest.approx(exact, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=3), st.integers(0, 2**16))
def test_safe_sum_equals_the_float64_sum_for_any_shape(shape, seed):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    # atol: cancellation of up to 343 values near 1 in float32.
    assert float(safe_sum(mx.array(x))) == pytest.approx(x.sum(dtype=np.float64), abs=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 99, 100, 101, 10_000, 12_345])
def test_safe_sum_counts_every_element_of_a_vector(size):
    assert float(safe_sum(mx.ones(size))) == size


@pytest.mark.parametrize("transpose", [False, True])
def test_safe_sum_of_millions_of_equal_values_is_accurate(transpose):
    values = mx.full((1 << 10, 1 << 12), 0.1)
    exact = (1 << 22) * float(np.float32(0.1))
    # 1e-4: equal values round the same way in each of up to 4096 additions.
    assert float(safe_sum(values.T if transpose else values.reshape(-1))) == pytest.approx(
        exact, rel=1e-4
    )


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1.0, 1e19, 5e37])
def test_global_norm_is_right_for_entries_of_any_size(size):
    tree = {"a": mx.array([3 * size, 0.0]), "b": mx.array(-4 * size), "none": mx.zeros((0, 2))}
    assert float(global_norm(tree)) == pytest.approx(5 * size, rel=1e-6)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_global_norm_of_what_is_no_number_is_none(bad):
    assert not math.isfinite(float(global_norm({"a": mx.array([1.0, bad]), "b": mx.ones(2)})))


def test_global_norm_covers_nested_trees_of_any_precision():
    tree = {"a": mx.array([3.0], mx.bfloat16), "b": [{"c": mx.array([[4.0]])}]}
    assert float(global_norm(tree)) == 5.0
    assert float(global_norm({})) == 0.0
