import math
import re

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt.engine.sampler import Filters, Sampler, log_probabilities
from mlx_gpt.engine.sampling import Sampling


def survival(statistic: float, degrees: int) -> float:
    """Return P(chi-square > statistic), for an even number of degrees of freedom."""
    half = statistic / 2
    return math.exp(-half) * sum(half**i / math.factorial(i) for i in range(degrees // 2))


def chi_square(tokens: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * len(tokens)
    assert expected.min() > 5
    counts = np.bincount(tokens, minlength=len(probabilities))
    return survival(float(((counts - expected) ** 2 / expected).sum()), len(probabilities) - 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


NINE = np.array([0.3, -1.0, 1.4, 0.0, -0.6, 0.9, -1.2, 0.1, 0.5])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_rows_draw_from_the_softmax(temperature: float):
    rows = [Sampling(temperature=temperature, seed=seed) for seed in range(20_000)]
    tokens = np.array(Sampler(rows)(mx.array([NINE.tolist()] * len(rows))))
    assert chi_square(tokens, softmax(NINE / temperature)) > 0.001


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_steps_of_one_row_draw_from_the_softmax(temperature: float):
    sampler, logits = (
        Sampler([Sampling(temperature=temperature, seed=3)]),
        mx.array([NINE.tolist()]),
    )
    tokens = np.array([int(sampler(logits)) for _ in range(2000)])
    assert chi_square(tokens, softmax(NINE / temperature)) > 0.001


def test_a_token_of_97_percent_is_drawn_97_times_in_100():
    logits = mx.array([np.log([0.97, 0.01, 0.01, 0.01]).tolist()] * 10_000)
    tokens = np.array(Sampler([Sampling(seed=seed) for seed in range(10_000)])(logits))
    assert abs((tokens == 0).mean() - 0.97) < 4 * math.sqrt(0.97 * 0.03 / 10_000)


def test_filtered_draws_follow_the_renormalized_softmax():
    rows = [Sampling(top_k=7, min_p=0.1, seed=seed) for seed in range(20_000)]
    tokens = np.array(Sampler(rows)(mx.array([NINE.tolist()] * len(rows))))
    kept = np.flatnonzero(np.exp(NINE - NINE.max()) >= 0.1)
    assert set(tokens) == set(kept)
    places = np.searchsorted(kept, tokens)
    assert chi_square(places, softmax(NINE[kept])) > 0.001


weights = st.lists(st.integers(1, 12), min_size=1, max_size=40)


def logits_of(weights: list[int]) -> mx.array:
    return mx.log(mx.array([weights], mx.float32))


def likeliest(weights: list[int], count: int) -> set[int]:
    """Return the ids of the largest; of equal ones the lower ids."""
    return set(sorted(range(len(weights)), key=lambda i: (-weights[i], i))[:count])


def kept(logits: mx.array, *rows: Sampling) -> list[set[int]]:
    mask = Filters(rows).kept(logits)
    assert mask is not None
    return [set(np.flatnonzero(row)) for row in np.array(mask)]


@given(weights, st.integers(1, 50))
@settings(deadline=None, max_examples=60)
def test_top_k_keeps_exactly_k(weights: list[int], k: int):
    assert kept(logits_of(weights), Sampling(top_k=k)) == [likeliest(weights, k)]


@given(weights, st.data(), st.integers(0, 50))
@settings(deadline=None, max_examples=100)
def test_top_p_keeps_the_fewest_that_reach_p_of_what_top_k_left(
    weights: list[int], data: st.DataObject, k: int
):
    ordered = sorted(weights, reverse=True)[: k or None]
    count = data.draw(st.integers(1, len(ordered)))
    # Halfway between two sums, where rounding cannot matter.
    p = (sum(ordered[:count]) - ordered[count - 1] / 2) / sum(ordered)
    sampling = Sampling(top_p=p, top_k=k)
    assert kept(logits_of(weights), sampling) == [likeliest(weights, count)]


@given(weights, st.integers(0, 11))
@settings(deadline=None, max_examples=60)
def test_min_p_keeps_what_is_likely_beside_the_likeliest(weights: list[int], below: int):
    sampling = Sampling(min_p=min(1.0, (below + 0.5) / max(weights)))
    expected = {i for i, weight in enumerate(weights) if weight > below} or likeliest(weights, 1)
    expected |= {i for i, weight in enumerate(weights) if weight == max(weights)}
    assert kept(logits_of(weights), sampling) == [expected]


@pytest.mark.parametrize(
    "sampling", [Sampling(top_k=1), Sampling(top_p=1e-9), Sampling(min_p=1.0, top_p=0.5)]
)
def test_the_likeliest_is_always_kept(sampling: Sampling):
    assert kept(mx.array([[0.0, 2.0, 1.0, 1.0]]), sampling) == [{1}]


def test_top_p_of_almost_1_keeps_all_of_a_large_vocabulary_in_rows_that_do_not_ask_for_it():
    logits = mx.random.normal((2, 40_000), key=mx.random.key(0))
    few, everything = kept(logits, Sampling(top_p=0.5), Sampling())
    assert len(few) < 20_000
    assert len(everything) == 40_000


def test_filters_that_no_row_uses_cost_nothing():
    logits = mx.array([NINE.tolist()] * 2)
    assert Filters([Sampling(), Sampling(temperature=0.5)]).kept(logits) is None
    greedy = Sampling(temperature=0, top_k=3, top_p=0.5, min_p=0.1)
    assert Filters([Sampling(), greedy]).kept(logits) is None


MIXED = [
    Sampling(seed=1),
    Sampling(temperature=0),
    Sampling(temperature=0.7, top_k=5, seed=2),
    Sampling(top_p=0.8, seed=3),
    Sampling(min_p=0.05, temperature=1.5, seed=4),
    Sampling(temperature=0.6, top_k=20, top_p=0.9, min_p=0.02, seed=2**64 - 1),
]


def draws(rows: list[Sampling], logits: mx.array, which: list[int]) -> list[list[int]]:
    """Return what each row draws in every step of logits (steps, rows, V)."""
    sampler = Sampler(rows)
    steps = [sampler(step[mx.array(which)]) for step in logits]
    return mx.stack(steps, axis=1).tolist()


def test_a_seed_draws_the_same_alone_and_in_any_batch():
    logits = 2 * mx.random.normal((20, len(MIXED), 50), key=mx.random.key(0))
    together = draws(MIXED, logits, list(range(len(MIXED))))
    alone = [draws([row], logits, [i])[0] for i, row in enumerate(MIXED)]
    turned = draws(MIXED[::-1], logits, list(range(len(MIXED)))[::-1])[::-1]
    assert together == alone == turned


def test_rows_that_stay_go_on_as_before():
    logits = 2 * mx.random.normal((8, len(MIXED), 50), key=mx.random.key(1))
    together = draws(MIXED, logits, list(range(len(MIXED))))
    sampler, rows = Sampler(MIXED), [4, 0, 5]
    for step in logits[:3]:
        sampler(step)
    sampler.take(rows)
    rest = mx.stack([sampler(step[mx.array(rows)]) for step in logits[3:]], axis=1)
    assert rest.tolist() == [together[row][3:] for row in rows]


def test_equal_seeds_draw_alike_and_different_seeds_differ():
    logits = mx.zeros((20, 3, 1000))
    first, second, other = draws([Sampling(seed=s) for s in (7, 7, 8)], logits, [0, 1, 2])
    assert first == second != other


def test_without_a_seed_mlx_decides():
    logits = mx.zeros((10, 2, 1000))

    def drawn(seed: int) -> list[list[int]]:
        mx.random.seed(seed)
        return draws([Sampling(), Sampling()], logits, [0, 1])

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0)[0] != drawn(0)[1]


def test_temperature_0_takes_the_first_of_the_likeliest():
    logits = mx.array([[0.0, 5.0, 5.0], [3.0, 1.0, 3.0]])
    assert Sampler([Sampling(temperature=0)] * 2)(logits).tolist() == [1, 0]
    mixed = Sampler([Sampling(temperature=0), Sampling(top_k=1)])
    assert mixed(logits).tolist() == [1, 0]


def test_the_coldest_and_the_hottest_temperature_are_finite():
    logits = mx.array([[-15.0, 15.0, 14.9]] * 2)
    cold = Sampler([Sampling(temperature=1e-5, seed=0), Sampling(temperature=1e-300)])
    assert cold(logits).tolist() == [1, 1]
    hot = Sampler([Sampling(temperature=1e30, seed=seed) for seed in range(300)])
    assert set(hot(mx.broadcast_to(logits[:1], (300, 3))).tolist()) == {0, 1, 2}


def test_log_probabilities_are_those_of_the_model():
    found = log_probabilities(mx.array([NINE.tolist()] * 2), mx.array([2, 6]))
    np.testing.assert_allclose(found, np.log(softmax(NINE))[[2, 6]], atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more, got -0.1"),
        ({"temperature": math.nan}, "temperature must be 0 or more, got nan"),
        ({"top_k": -1}, "top_k must be a whole number, 0 or more, got -1"),
        ({"top_k": 1.5}, "top_k must be a whole number, 0 or more, got 1.5"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"min_p": 1.1}, "min_p must be from 0 to 1, got 1.1"),
        ({"seed": -1}, "seed must be from 0 to 2**64 - 1, got -1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Sampling(**wrong)
