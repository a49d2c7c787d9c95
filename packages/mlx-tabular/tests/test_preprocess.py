import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tabular import Preprocessor

CELLS = st.one_of(st.none(), st.just(float("nan")), st.integers(-3, 3), st.sampled_from("abc"))
NUMBERS = st.one_of(st.none(), st.integers(-5, 5), st.floats(-1e6, 1e6))


@settings(max_examples=30)
@given(st.lists(st.tuples(NUMBERS, CELLS), min_size=1, max_size=30))
def test_a_round_trip_through_json_changes_nothing(rows):
    x = np.array(rows, object).reshape(len(rows), 2)
    fitted = Preprocessor.fit(x, categorical=[1], min_category_rows=2)
    again = Preprocessor.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    for before, after in zip(fitted.transform(x), again.transform(x), strict=True):
        np.testing.assert_array_equal(before, after)
        assert np.isfinite(before).all()


def test_numbers_become_normal_and_missing_ones_the_median_with_an_indicator():
    x = np.random.default_rng(0).exponential(size=(3000, 1))
    x[:300] = np.nan
    inputs = Preprocessor.fit(x).transform(x)
    known = inputs.num[300:, 0]
    assert abs(known.mean()) < 0.01
    assert abs(known.std() - 1) < 0.02
    assert (inputs.num[:300] == 0).all()
    np.testing.assert_array_equal(inputs.dense[:, 0], np.isnan(x[:, 0]))


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e12])
def test_the_unit_of_a_column_does_not_matter(unit):
    x = np.random.default_rng(0).normal(size=(200, 1))
    first, second = (Preprocessor.fit(each).transform(each) for each in (x, x * unit))
    np.testing.assert_allclose(second.num, first.num, atol=1e-5)


def test_only_training_rows_decide():
    x = np.random.default_rng(0).normal(size=(100, 2))
    fitted = Preprocessor.fit(x)
    far = np.array([[1e9, np.nan]])
    np.testing.assert_allclose(fitted.transform(far).num, [[5.1993, 0]], atol=1e-3)
    np.testing.assert_array_equal(
        fitted.transform(np.concatenate([x, far])).num[:100], fitted.transform(x).num
    )


def test_rare_and_unseen_categories_share_a_code():
    x = np.array([["a"]] * 5 + [["b"]] * 4 + [["c"]] * 2, object)
    fitted = Preprocessor.fit(x, categorical=[0], min_category_rows=3)
    new = np.array([["a"], ["b"], ["c"], ["z"], [None]], object)
    assert fitted.transform(new).cat[:, 0].tolist() == [0, 1, 2, 2, 2]
    assert fitted.cardinalities == [3]


def test_unseen_categories_have_no_code_where_none_was_rare():
    x = np.array([[0.0]] * 5 + [[1.0]] * 4 + [[np.nan]] * 4)
    fitted = Preprocessor.fit(x, categorical=[0])
    new = np.array([[0], [True], [None], [2]], object)
    assert fitted.transform(new).cat[:, 0].tolist() == [0, 1, 2, -1]


def test_constant_and_empty_columns_are_left_out():
    x = np.stack([np.ones(9), np.full(9, np.nan), np.r_[np.nan, np.ones(8)]], 1)
    fitted = Preprocessor.fit(x)
    inputs = fitted.transform(x)
    assert (fitted.n_num, fitted.n_dense) == (0, 1)
    assert inputs.num.shape == (9, 0)
    assert inputs.dense[:, 0].tolist() == [1, *[0] * 8]
    assert Preprocessor.fit(x[:, :2]).transform(x[:, :2]).dense.tolist() == [[0.0]] * 9
