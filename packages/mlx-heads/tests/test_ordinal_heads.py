import json
from pathlib import Path
from statistics import NormalDist

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_heads import (
    ClassNumberHead,
    CoralHead,
    CornHead,
    CumulativeLinkHead,
    coral_loss,
    corn_loss,
    cumulative_link_loss,
)

LABELS = json.loads((Path(__file__).parent / "fixtures/ordinal_labels.json").read_text())
HEADS = {
    "coral": (CoralHead, {}, coral_loss),
    "corn": (CornHead, {}, corn_loss),
    "logit": (CumulativeLinkHead, {}, cumulative_link_loss),
    "probit": (CumulativeLinkHead, {"link": "probit"}, cumulative_link_loss),
    "cloglog": (CumulativeLinkHead, {"link": "cloglog"}, cumulative_link_loss),
}
LINKS = {
    "logit": lambda z: 1 / (1 + np.exp(-z)),
    "probit": np.vectorize(NormalDist().cdf),
    "cloglog": lambda z: 1 - np.exp(-np.exp(z)),
}

every_ordinal = pytest.mark.parametrize("name", HEADS)


def build(name, num_classes, hidden_size=4):
    head, options, _ = HEADS[name]
    return head(hidden_size, num_classes, dropout=0.0, **options)


@every_ordinal
@settings(max_examples=100)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), min_size=1))
@example([[0.0, 0.0, 0.0], [17.0, 16.9, 16.8], [-3e38, 3e38, 0.0], [1e-30, 0.0, -1e-30]])
def test_probabilities_are_rows_that_sum_to_one_for_any_logits(name, logits):
    rows = np.array(build(name, 4).predict(mx.array(logits)))
    assert rows.shape == (len(logits), 4)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-6)  # float32 rounding of 4 terms


@pytest.mark.parametrize("link", LINKS)
def test_probabilities_are_differences_of_the_link(link):
    z = -np.sort(-np.random.default_rng(0).normal(0, 1.5, (50, 3)).astype(np.float32))
    above = LINKS[link](z.astype(np.float64))
    expected = -np.diff(above, axis=1, prepend=1.0, append=0.0)
    head = CumulativeLinkHead(4, 4, link=link)
    # float32 of numbers up to 1.
    np.testing.assert_allclose(np.array(head.predict(mx.array(z))), expected, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "coral"])
def test_the_loss_is_the_negative_log_of_the_probability(name):
    z = -np.sort(-np.random.default_rng(0).normal(0, 1.5, (50, 3)).astype(np.float32))
    y = mx.arange(50) % 4
    head, options, loss = HEADS[name]
    chances = np.array(head(4, 4, **options).predict(mx.array(z)))[np.arange(50), np.array(y)]
    losses = np.array(loss(mx.array(z), y, **options))
    np.testing.assert_allclose(np.exp(-losses), chances, atol=1e-6)


@pytest.mark.parametrize("name", ["coral", "logit"])
def test_a_small_chance_keeps_its_digits_at_either_end(name):
    # As 1 - sigmoid(20), or as a difference of chances near one, it would be 0 in float32.
    rows = np.array(build(name, 3).predict(mx.array([[20.0, 19.0], [-19.0, -20.0]])), np.float64)
    ends = 1 / (1 + np.exp([20.0, 19.0]))
    expected = [ends[0], ends[1] - ends[0], 1 - ends[1]]
    np.testing.assert_allclose(rows, [expected, expected[::-1]], rtol=1e-5)


@every_ordinal
@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_initially_all_classes_are_equally_likely(name, num_classes):
    head = build(name, num_classes)
    head.output.weight = mx.zeros_like(head.output.weight)
    chances = np.array(head.predict(head(mx.ones((1, 4)), None)))
    np.testing.assert_allclose(chances, 1 / num_classes, atol=1e-6)


@pytest.mark.parametrize("name", ["coral", "logit", "probit"])
def test_initial_logits_descend_and_are_symmetric(name):
    head = build(name, 6)
    head.output.weight = mx.zeros_like(head.output.weight)
    logits = np.array(head(mx.ones((1, 4)), None))[0]
    assert (np.diff(logits) < 0).all()
    np.testing.assert_allclose(logits, -logits[::-1], atol=1e-6)


@settings(max_examples=30)
@given(st.lists(st.floats(-80, 80), min_size=4, max_size=4))
def test_thresholds_stay_ordered_whatever_the_parameters(steps):
    head = CumulativeLinkHead(4, 5)
    head.threshold_steps = mx.array(steps)
    logits = np.array(head(mx.ones((2, 4)), None))
    assert (np.diff(logits, axis=1) <= 0).all()


def test_corn_labels_equal_those_of_coral_pytorch():
    labels = CornHead(4, 5).labels(mx.array(LABELS["conditional"]))
    assert labels.tolist() == LABELS["corn_labels"]


def test_coral_labels_equal_those_of_coral_pytorch():
    labels = CoralHead(4, 5).labels(mx.array(LABELS["cumulative"]))
    assert labels.tolist() == LABELS["coral_labels"]


@every_ordinal
@settings(max_examples=30)
@given(st.integers(0, 2**16))
def test_labels_are_the_median_of_the_probabilities(name, seed):
    logits = mx.array(np.random.default_rng(seed).normal(0, 3, (20, 4)).astype(np.float32))
    head = build(name, 5)
    below = np.cumsum(np.array(head.predict(logits), np.float64), axis=1)[:, :-1]
    clear = np.abs(below - 0.5).min(1) > 1e-5  # else rounding decides
    assert np.array_equal(np.array(head.labels(logits))[clear], (below < 0.5).sum(1)[clear])


def test_crossing_coral_logits_use_the_lowest_chance_so_far():
    chances = CoralHead(4, 4).predict(mx.array([[0.0, -2.0, 3.0]]))
    low = 1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(np.array(chances), [[0.5, 0.5 - low, 0.0, low]], atol=1e-6)


@every_ordinal
def test_training_recovers_the_chances_of_the_classes(name):
    """Without any text, the best prediction is the share of each class."""
    targets = mx.array(np.repeat([0, 1, 2, 3], [10, 50, 25, 15]))
    head, (_, options, loss) = build(name, 4), HEADS[name]
    vectors = mx.ones((100, 4))
    optimizer = optim.Adam(learning_rate=0.05)
    step = nn.value_and_grad(head, lambda: loss(head(vectors, None), targets, **options).mean())
    for _ in range(250):
        optimizer.update(head, step()[1])
        mx.eval(head.parameters(), optimizer.state)
    chances = np.array(head.predict(head(vectors[:1], None)))[0]
    np.testing.assert_allclose(chances, [0.1, 0.5, 0.25, 0.15], atol=0.01)


@every_ordinal
def test_training_orders_classes_along_a_feature(name):
    random = np.random.default_rng(0)
    score = random.normal(size=150)
    targets = np.digitize(score + 0.1 * random.normal(size=150), [-0.8, 0.0, 1.0])
    features, y = mx.array(score[:, None].astype(np.float32)), mx.array(targets)
    head, options, loss = HEADS[name]
    head = head(4, 4, num_features=1, feature_size=8, dropout=0.0, **options)
    # The loss of cloglog is exponential in the output: large steps would end in its plateau.
    optimizer = optim.Adam(learning_rate=0.03)

    def mean_loss():
        return loss(head(mx.zeros((150, 4)), None, features), y, **options).mean()

    step = nn.value_and_grad(head, mean_loss)
    for _ in range(150):
        optimizer.update(head, step()[1])
        mx.eval(head.parameters(), optimizer.state)
    outputs = head(mx.zeros((150, 4)), None, features)
    assert (np.array(head.labels(outputs)) == targets).mean() > 0.88
    # The chance of a higher class grows along the feature.
    expected_class = np.array(head.predict(outputs)) @ np.arange(4)
    assert (
        np.corrcoef(np.argsort(np.argsort(expected_class)), np.argsort(np.argsort(score)))[0, 1]
        > 0.99
    )


def test_class_numbers_start_in_the_middle():
    head = ClassNumberHead(4, 6).eval()
    head.output.weight = mx.zeros_like(head.output.weight)
    assert head.predict(head(mx.ones((2, 4)), None)).tolist() == [2.5, 2.5]
