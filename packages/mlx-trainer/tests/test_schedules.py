import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_trainer import constant, warmup_cosine, warmup_linear


def test_cosine_rises_linearly_and_falls_to_half_in_the_middle():
    factors = [warmup_cosine(0.2)(update, 20) for update in range(21)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[12] == pytest.approx(0.5)
    assert factors[20] == pytest.approx(0.0)


def test_linear_falls_in_equal_steps_to_final():
    factors = [warmup_linear(0.0, final=0.1)(update, 9) for update in range(10)]
    assert factors == pytest.approx([1 - 0.1 * update for update in range(10)])


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 500))
def test_factors_are_positive_until_the_end_and_never_above_one(warmup, final, total):
    for schedule in (warmup_cosine(warmup, final), warmup_linear(warmup, final), constant):
        factors = [schedule(update, total) for update in range(total)]
        assert all(0 < factor <= 1 for factor in factors)
        peak = factors.index(max(factors))
        assert factors[:peak] == sorted(factors[:peak])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_a_warmup_in_updates_is_refused(exactly):
    with pytest.raises(
        ValueError, match=exactly("warmup is a share of all updates, between 0 and 1, got 100")
    ):
        warmup_cosine(100)
