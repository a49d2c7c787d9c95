"""Laws that every loss keeps, for random inputs."""

from dataclasses import dataclass
from functools import partial

import hypothesis.extra.numpy as hnp
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_heads
from mlx_heads import (
    binary_cross_entropy,
    coral_loss,
    corn_loss,
    cross_entropy,
    cumulative_link_loss,
    focal_loss,
    mean_absolute_error,
    quantile_loss,
    ranknet_loss,
)

ROWS = 6
LEVELS = (0.1, 0.5, 0.9)
OUTPUTS = {"none": (), "labels": (3,), "classes": (4,), "quantiles": (2, 3), "gaussian": (2, 2)}


@dataclass(frozen=True)
class Case:
    """A loss, the shape of a row of its outputs, and the kind of a row of its targets."""

    loss: str
    shape: tuple[int, ...]
    targets: str  # "binary", "class", "value" or "outputs": an array like the outputs
    options: tuple[tuple[str, object], ...] = ()
    others: bool = False  # a second array like the outputs stands before the targets
    rows_meet: bool = False  # a row's loss depends on other rows

    def __call__(self, *arrays, **reduction):
        return getattr(mlx_heads, self.loss)(*arrays, **dict(self.options), **reduction)


CASES = {
    "bce": Case("binary_cross_entropy", (), "binary", (("pos_weight", 2.0),)),
    "bce labels": Case("binary_cross_entropy", (3,), "binary"),
    "ce": Case("cross_entropy", (4,), "class", (("label_smoothing", 0.1),)),
    "focal": Case("focal_loss", (), "binary", (("alpha", 0.3),)),
    "focal labels": Case("focal_loss", (3,), "binary"),
    "focal classes": Case("focal_loss", (4,), "class"),
    "asymmetric": Case("asymmetric_loss", (3,), "binary"),
    "mse": Case("mean_squared_error", (2,), "value"),
    "mae": Case("mean_absolute_error", (), "value"),
    "huber": Case("huber", (2,), "value"),
    "smooth l1": Case("smooth_l1", (), "value"),
    "log cosh": Case("log_cosh", (2,), "value"),
    "msle": Case("mean_squared_log_error", (2,), "value"),
    "quantile": Case("quantile_loss", (2, 3), "value", (("levels", LEVELS),)),
    "gaussian": Case("gaussian_nll", (2, 2), "value", (("beta", 0.5),)),
    "coral": Case("coral_loss", (4,), "class"),
    "corn": Case("corn_loss", (4,), "class"),
    "logit": Case("cumulative_link_loss", (4,), "class"),
    "probit": Case("cumulative_link_loss", (4,), "class", (("link", "probit"),)),
    "cloglog": Case("cumulative_link_loss", (4,), "class", (("link", "cloglog"),)),
    "contrastive": Case("contrastive_loss", (3,), "row binary", others=True),
    "margin ranking": Case("margin_ranking_loss", (), "binary", others=True),
    "ranknet": Case("ranknet_loss", (), "class", rows_meet=True),
    "listnet": Case("listnet_loss", (), "value", rows_meet=True),
    "supervised": Case("supervised_contrastive_loss", (3,), "class", rows_meet=True),
    "r-drop": Case("r_drop_loss", (4,), "outputs"),
    "triplet": Case("triplet_loss", (3,), "outputs", others=True),
    "multiple negatives": Case("multiple_negatives_ranking_loss", (3,), "outputs", rows_meet=True),
}
WITH_TARGETS = [name for name, case in CASES.items() if case.targets != "outputs"]
BY_ROW = [name for name, case in CASES.items() if not case.rows_meet]


@st.composite
def inputs(draw, case):
    """Draw the arrays of a case and weights."""

    def floats(shape, low, high):
        elements = st.floats(low, high, width=32, allow_subnormal=False)
        return draw(hnp.arrays(np.float32, shape, elements=elements))

    low = -0.5 if case.loss == "mean_squared_log_error" else -4
    outputs = floats((ROWS, *case.shape), low, 4)
    if case.loss == "cumulative_link_loss":
        outputs = -np.sort(-outputs, axis=1) - 0.25 * np.arange(case.shape[0], dtype=np.float32)
    elementwise = case.shape[:1] if case.loss not in ("supervised_contrastive_loss",) else ()
    if case.targets == "class":
        targets = draw(hnp.arrays(np.int32, ROWS, elements=st.integers(0, 3)))
    elif case.targets == "outputs":
        targets = floats(outputs.shape, -4, 4)
    elif case.targets == "row binary":
        targets = draw(hnp.arrays(np.float32, ROWS, elements=st.sampled_from([0.0, 1.0])))
    elif case.targets == "binary":
        targets = draw(
            hnp.arrays(np.float32, (ROWS, *elementwise), elements=st.sampled_from([0.0, 1.0]))
        )
    else:
        targets = floats((ROWS, *elementwise), 0, 4)
    weights = floats(ROWS, 0.125, 3)
    others = [floats(outputs.shape, -4, 4)] if case.others else []
    return [outputs, *others, targets], weights


def over_cases(names, examples=6):
    """Run a test for every case with drawn inputs."""

    def decorate(test):
        @pytest.mark.parametrize("name", names)
        @settings(max_examples=examples, deadline=None, derandomize=True)
        @given(data=st.data())
        def run(name, data):
            arrays, weights = data.draw(inputs(CASES[name]))
            test(CASES[name], [mx.array(each) for each in arrays], mx.array(weights), data)

        run.__name__ = test.__name__
        return run

    return decorate


def close(found, expected, rtol=2e-6):
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=rtol, atol=1e-6)


def gradient_of(case, arrays, **options):
    """Return the gradient of the sum, or of the mean, with respect to the outputs."""
    return mx.grad(lambda z: case(z, *arrays[1:], **options).sum())(arrays[0])


@over_cases(CASES)
def test_sum_adds_the_weighted_losses(case, arrays, weights, data):
    losses = case(*arrays, sample_weight=weights)
    assert losses.shape == (ROWS,)
    assert losses.dtype == mx.float32
    close(losses, case(*arrays) * weights)
    close(case(*arrays, sample_weight=weights, reduction="sum"), losses.sum())


DIVIDED_OTHERWISE = {"corn", "ranknet", "listnet", "supervised"}


@over_cases([name for name in CASES if name not in DIVIDED_OTHERWISE])
def test_mean_divides_by_the_sum_of_weights(case, arrays, weights, data):
    losses = case(*arrays)
    close(case(*arrays, reduction="mean"), losses.sum() / ROWS)
    for factor in (1.0, 8.0):
        mean = case(*arrays, sample_weight=factor * weights, reduction="mean")
        close(mean, (losses * weights).sum() / weights.sum())


@over_cases(BY_ROW)
def test_weight_two_equals_the_row_twice(case, arrays, weights, data):
    row = data.draw(st.integers(0, ROWS - 1))
    double = mx.array([2.0 if each == row else 1.0 for each in range(ROWS)])
    twice = mx.array([*range(ROWS), row])
    repeated = [each[twice] for each in arrays]
    for reduction in ("mean", "sum"):
        weighted = case(*arrays, sample_weight=double, reduction=reduction)
        close(weighted, case(*repeated, reduction=reduction))


@over_cases(CASES)
def test_a_row_of_weight_zero_is_as_if_it_were_not_there(case, arrays, weights, data):
    out = data.draw(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=3, unique=True))
    kept = mx.array([each for each in range(ROWS) if each not in out])
    dropped = mx.array([each in out for each in range(ROWS)])
    weights = mx.where(dropped, 0.0, weights)
    broken = [with_nan(each, dropped) for each in arrays]
    check_left_out(case, arrays, broken, weights, kept, dropped, {})


@over_cases(WITH_TARGETS)
def test_an_ignored_row_has_no_influence_even_if_its_output_is_nan(case, arrays, weights, data):
    out = data.draw(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=3, unique=True))
    kept = mx.array([each for each in range(ROWS) if each not in out])
    dropped = mx.array([each in out for each in range(ROWS)])
    broken = [with_nan(each, dropped) for each in arrays]
    integer = mx.issubdtype(arrays[-1].dtype, mx.integer)
    mark = data.draw(st.sampled_from([-100] if integer else [-100.0, float("nan")]))
    wide = dropped.reshape(-1, *[1] * (arrays[-1].ndim - 1))
    broken[-1] = mx.where(wide, mx.array(mark, arrays[-1].dtype), arrays[-1])
    check_left_out(case, arrays, broken, weights, kept, dropped, {"ignore_index": mark})


def with_nan(array, dropped):
    if mx.issubdtype(array.dtype, mx.integer):
        return array
    wide = dropped.reshape(-1, *[1] * (array.ndim - 1))
    return mx.where(wide, mx.array(np.nan, array.dtype), array)


def check_left_out(case, arrays, broken, weights, kept, dropped, options):
    """Check losses, reductions and gradients against those of the kept rows alone."""
    alone = [each[kept] for each in arrays]
    weighted = options | {"sample_weight": weights}
    losses = case(*broken, **weighted)
    close(losses[kept], case(*alone, sample_weight=weights[kept]))
    assert (np.array(losses)[np.array(dropped)] == 0).all()
    for reduction in ("mean", "sum"):
        expected = case(*alone, sample_weight=weights[kept], reduction=reduction)
        close(case(*broken, **weighted, reduction=reduction), expected)
        gradient = gradient_of(case, broken, **weighted, reduction=reduction)
        expected = gradient_of(case, alone, sample_weight=weights[kept], reduction=reduction)
        close(gradient[kept], expected, rtol=1e-5)
        assert (np.array(gradient)[np.array(dropped)] == 0).all()


ELEMENTWISE = [
    name
    for name in WITH_TARGETS
    if CASES[name].targets in ("binary", "value") and CASES[name].shape
]


@over_cases(ELEMENTWISE)
def test_a_row_is_the_mean_over_its_elements_that_count(case, arrays, weights, data):
    outputs, targets = arrays
    out = mx.array([True, *[False] * (targets.shape[1] - 1)])
    broken = mx.where(out, mx.array(np.nan), targets)
    close(case(outputs, broken, ignore_index=float("nan")), case(outputs[:, 1:], targets[:, 1:]))


@over_cases(WITH_TARGETS, examples=3)
def test_the_mean_of_nothing_is_zero(case, arrays, weights, data):
    mark = mx.full(arrays[-1].shape, -100, dtype=arrays[-1].dtype)
    options = {"ignore_index": -100, "reduction": "mean"}
    assert case(*arrays[:-1], mark, **options).item() == 0.0
    gradient = gradient_of(case, [*arrays[:-1], mark], **options)
    assert not np.array(gradient).any()


@over_cases(CASES, examples=3)
def test_compiled_losses_equal_the_others_and_leave_their_inputs(case, arrays, weights, data):
    before = [np.array(each) for each in (*arrays, weights)]
    with_targets = {"ignore_index": 1} if case.targets != "outputs" else {}
    close(mx.compile(partial(case, reduction="mean"))(*arrays), case(*arrays, reduction="mean"))

    def loss(*arrays):
        *arrays, weights = arrays
        return case(*arrays, sample_weight=weights, reduction="mean", **with_targets)

    close(mx.compile(loss)(*arrays, weights), loss(*arrays, weights))
    gradient = mx.grad(lambda *each: loss(*each))
    close(mx.compile(gradient)(*arrays, weights), gradient(*arrays, weights), rtol=1e-5)
    for array, copy in zip((*arrays, weights), before, strict=True):
        np.testing.assert_array_equal(np.array(array), copy)


@over_cases([name for name, case in CASES.items() if case.rows_meet])
def test_permuted_rows_have_permuted_losses(case, arrays, weights, data):
    order = mx.array(data.draw(st.permutations(range(ROWS))))
    losses = case(*[each[order] for each in arrays], sample_weight=weights[order])
    close(losses, case(*arrays, sample_weight=weights)[order])


@over_cases(["bce labels", "ce"])
def test_focal_loss_with_gamma_zero_is_the_weighted_cross_entropy(case, arrays, weights, data):
    if case.loss == "cross_entropy":
        alpha = mx.array([0.5, 1.0, 2.0, 3.0])
        close(focal_loss(*arrays, 0.0, alpha), cross_entropy(*arrays, alpha))
    else:
        close(focal_loss(*arrays, 0.0), binary_cross_entropy(*arrays))
        weighted = 0.25 * binary_cross_entropy(*arrays, pos_weight=3.0)
        close(focal_loss(*arrays, 0.0, 0.75), weighted)


@over_cases(["focal"])
def test_two_classes_cost_what_the_difference_of_their_logits_does(case, arrays, weights, data):
    z, y = arrays
    two, classes = mx.stack([mx.zeros(ROWS), z], axis=1), y.astype(mx.int32)
    close(cross_entropy(two, classes), binary_cross_entropy(z, y))
    close(focal_loss(two, classes), focal_loss(z, y))
    for loss in (coral_loss, corn_loss, cumulative_link_loss):
        close(loss(z[:, None], classes), binary_cross_entropy(z, y))
        mean = binary_cross_entropy(z, y, reduction="mean")
        close(loss(z[:, None], classes, reduction="mean"), mean)


@over_cases(["mae"])
def test_the_loss_of_the_median_is_half_the_absolute_error(case, arrays, weights, data):
    values, targets = arrays
    median = lambda z: quantile_loss(z[:, None], targets, (0.5,))  # noqa: E731
    close(median(values), 0.5 * mean_absolute_error(values, targets))
    gradient = mx.grad(lambda z: median(z).sum())(values)
    close(gradient, 0.5 * gradient_of(case, arrays))


@over_cases(["logit", "probit", "cloglog"])
def test_cumulative_probabilities_add_up_to_one(case, arrays, weights, data):
    outputs = arrays[0]
    losses = [case(outputs, mx.full(ROWS, k, dtype=mx.int32)) for k in range(5)]
    close(mx.exp(-mx.stack(losses)).sum(axis=0), mx.ones(ROWS))


@over_cases(["corn"])
def test_corn_means_divide_by_the_tasks_of_the_rows(case, arrays, weights, data):
    outputs, targets = arrays
    tasks = mx.minimum(targets + 1, 4)
    mean = corn_loss(outputs, targets, sample_weight=weights, reduction="mean")
    losses = corn_loss(outputs, targets)
    close(mean, (weights * losses).sum() / (weights * tasks).sum())


@over_cases(["ranknet", "listnet"])
def test_lists_are_apart(case, arrays, weights, data):
    scores, targets = arrays
    groups = mx.array([0, 0, 1, 0, 1, 1])
    both = case(scores, targets, groups, sample_weight=weights)
    for group in (0, 1):
        rows = mx.array(np.flatnonzero(np.array(groups) == group))
        alone = case(scores[rows], targets[rows], sample_weight=weights[rows])
        close(both[rows], alone)


def test_ranking_means_are_those_of_pairs_and_of_lists():
    scores, targets = mx.array([1.0, 0.0, 2.0, 0.5]), mx.array([1, 0, 2, 2])
    pairs = [(0, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    terms = [np.log1p(np.exp(scores[j].item() - scores[i].item())) for i, j in pairs]
    mean = ranknet_loss(scores, targets, reduction="mean").item()
    assert mean == pytest.approx(np.mean(terms), rel=1e-6)
    groups = mx.array([0, 0, 1, 1])
    lists = mlx_heads.listnet_loss(scores, targets, groups)
    mean = mlx_heads.listnet_loss(scores, targets, groups, reduction="mean").item()
    assert mean == pytest.approx(lists.sum().item() / 2, rel=1e-6)
