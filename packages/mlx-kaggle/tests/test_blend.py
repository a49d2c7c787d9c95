"""Blends: what each method fits, and how a fitted blend predicts."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize, nnls
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from mlx_kaggle.blend import METHODS, Blend, Loss, describe, fit_blend
from mlx_kaggle.blend.bma import bma_weights
from mlx_kaggle.blend.fit import FIT_VALUES, cross_fit
from mlx_kaggle.blend.greedy import BAGGED_ROWS, select
from mlx_kaggle.blend.ranks import Curve
from mlx_kaggle.blend.stack import stack_weights

LOG, SQUARED = Loss("log"), Loss("squared")


def two_classes(p):
    return np.stack([1 - p, p], 1)


def binary(rows=400, noises=(1.0, 1.2, 1.5), seed=0):
    """Class numbers, and members whose logits are the truth with independent noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    logits = [0.8 * (2 * y - 1) + rng.normal(0, noise, rows) for noise in noises]
    return y, {f"m{at}": two_classes(expit(each)) for at, each in enumerate(logits)}


def values(rows=400, noises=(1.0, 1.2, 1.5), seed=0, shape=()):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 3, (rows, *shape))
    return y, {f"m{at}": y + rng.normal(0, noise, y.shape) for at, noise in enumerate(noises)}


def reduced(loss, y, members):
    return np.stack([loss.reduce(y, each) for each in members.values()])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (LOG, (3,)),
        (Loss("labels"), (2,)),
        (SQUARED, ()),
        (SQUARED, (2,)),
        (Loss("absolute"), (2, 3)),
        (Loss("squared", log=True), (1, 3)),
    ],
)
def test_a_row_alone_is_predicted_as_in_the_batch(method, loss, shape):
    rng = np.random.default_rng(0)
    rows = 60
    truth = {"log": rng.integers(0, 3, rows), "labels": rng.integers(0, 2, (rows, 2))}
    y = truth.get(loss.kind, rng.random((rows, *shape[:1])))
    members = {name: np.sort(rng.random((rows, *shape)), -1) for name in ("a", "b", "c")}
    if len(shape) == 2:
        members = {name: each[..., [1, 0, 2]] for name, each in members.items()}
    if loss.kind == "log":
        members = {name: each / each.sum(1, keepdims=True) for name, each in members.items()}
    blend = fit_blend(method, members, y, loss, 0)
    assert sum(blend.weights.values()) == pytest.approx(1)
    assert min(blend.weights.values()) >= 0
    new = {name: each[::-1] * 0.9 + 0.03 for name, each in members.items()}
    batch = blend.apply(new)
    assert batch.shape == (rows, *shape)
    if loss.kind == "log":
        np.testing.assert_allclose(
            batch.sum(1), 1.0 * 0.9 + 3 * 0.03 if method != "rank_mean" else 1
        )
    alone = [blend.apply({n: p[[row]] for n, p in new.items()}) for row in range(rows)]
    np.testing.assert_array_equal(np.concatenate(alone), batch)
    again = Blend.from_dict(json.loads(json.dumps(blend.to_dict())))
    np.testing.assert_array_equal(again.apply(new), batch)
    if len(shape) == 2:
        assert (batch[..., 1] <= batch[..., 0]).all()
        assert (batch[..., 0] <= batch[..., 2]).all()


@pytest.mark.parametrize("method", ["greedy", "stack", "bma"])
@pytest.mark.parametrize("make", [binary, values])
def test_one_much_better_member_gets_the_weight(method, make):
    noises = (0.2, 4.0, 4.0, 4.0)
    y, members = make(noises=noises, rows=1000)
    blend = fit_blend(method, members, y, LOG if make is binary else SQUARED, 0)
    assert blend.weights["m0"] > 0.95


@pytest.mark.parametrize("method", [each for each in METHODS if each != "bma"])
@pytest.mark.parametrize("loss", [SQUARED, Loss("absolute")])
def test_a_blend_of_independent_errors_beats_each_member(method, loss):
    y, members = values(rows=1000, noises=(1, 1, 1, 1))
    weights = fit_blend(method, members, y, loss, 0).weights
    np.testing.assert_allclose(list(weights.values()), 0.25, atol=0.06)
    new, unseen = values(rows=1000, noises=(1, 1, 1, 1), seed=1)
    blended = fit_blend(method, members, y, loss, 0).apply(unseen)
    best = min(loss.rows(new, each).mean() for each in unseen.values())
    assert loss.rows(new, blended).mean() < 0.8 * best


def test_the_mean_leaves_out_the_worse_half_if_that_is_better():
    y, members = values(noises=(1, 1, 20, 20))
    assert fit_blend("mean", members, y, SQUARED, 0).members == ["m0", "m1"]
    y, members = values(noises=(1, 1, 1, 1))
    assert len(fit_blend("mean", members, y, SQUARED, 0).members) == 4


def slow_select(loss, y, members):
    """Caruana et al. 2004, figure 1 and section 2.2, word by word."""

    def of(names):
        return loss.rows(y, sum(members[name] for name in names) / len(names)).mean()

    ranked = sorted(members, key=lambda name: of([name]))
    chosen = list(min((ranked[: n + 1] for n in range(len(ranked))), key=of))
    best = chosen
    for _ in range(100):
        chosen = min(([*chosen, name] for name in members), key=of)
        if of(chosen) < of(best) * (1 - 1e-9):
            best = chosen
    return [best.count(name) / len(best) for name in members]


@pytest.mark.parametrize("make", [binary, values])
def test_greedy_selects_as_the_literal_algorithm(make):
    y, members = make(rows=101, noises=(1.0, 1.1, 1.3, 2.5))
    loss = LOG if make is binary else SQUARED
    found = select(reduced(loss, y, members)[:, None], loss)[:, 0]
    np.testing.assert_allclose(found, slow_select(loss, y, members), atol=1e-12)
    assert 0 < found.max() < 1


def test_greedy_of_few_rows_is_the_mean_of_bags():
    y, members = values(rows=80)
    columns, rng = reduced(SQUARED, y, members), np.random.default_rng(0)
    bags = rng.integers(80, size=(10, 80))
    expected = np.mean([select(columns[:, None, bag], SQUARED)[:, 0] for bag in bags], 0)
    found = fit_blend("greedy", members, y, SQUARED, 0).weights
    np.testing.assert_allclose(list(found.values()), expected)
    y, members = values(rows=BAGGED_ROWS)
    expected = select(reduced(SQUARED, y, members)[:, None], SQUARED)[:, 0]
    found = fit_blend("greedy", members, y, SQUARED, 0).weights
    np.testing.assert_allclose(list(found.values()), expected)


@pytest.mark.parametrize("loss", [LOG, SQUARED, Loss("absolute")])
def test_stack_is_the_minimum_on_the_simplex(loss):
    y, members = (binary if loss is LOG else values)(rows=150, noises=(1.0, 1.1, 1.5, 6.0))
    columns = reduced(loss, y, members)

    def mean_loss(weights):
        return loss.of(np.tensordot(weights / weights.sum(), columns, 1)).mean()

    found = stack_weights(columns, loss, np.random.default_rng(0))
    reference = minimize(
        mean_loss,
        np.full(4, 0.25),
        method="SLSQP",
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-12},
    )
    assert mean_loss(found) <= reference.fun + (1e-4 if loss.kind == "absolute" else 1e-6)
    if loss.kind != "absolute":  # it has many near-optimal weights
        np.testing.assert_allclose(found, reference.x, atol=2e-3)


def test_stack_of_values_is_non_negative_least_squares():
    y, members = values(rows=150, noises=(1.0, 1.1, 6.0))
    columns = reduced(SQUARED, y, members)[..., 0]
    heavy = np.vstack([columns.T, np.full(3, 1e6)])
    expected, _ = nnls(heavy, np.append(np.zeros(150), 1e6))
    found = stack_weights(columns[..., None], SQUARED, np.random.default_rng(0))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("make", [binary, values])
def test_pseudo_bma_weights_follow_yao(make):
    y, members = make(rows=60, noises=(1.0, 1.05, 1.1))
    loss = LOG if make is binary else SQUARED
    rng = np.random.default_rng(7)
    if make is binary:
        lpd = np.stack([np.log(p[np.arange(60), y]) for p in members.values()], 1)
    else:
        errors = np.stack([y - p for p in members.values()], 1)
        sigma = np.sqrt((errors**2).mean(0))
        lpd = -np.log(sigma * np.sqrt(2 * np.pi)) - errors**2 / (2 * sigma**2)
    draws = []
    for _ in range(20_000):
        z = 60 * rng.dirichlet(np.ones(60)) @ lpd
        draws.append(np.exp(z - z.max()) / np.exp(z - z.max()).sum())
    found = bma_weights(reduced(loss, y, members), loss, rng)
    np.testing.assert_allclose(found, np.mean(draws, 0), atol=0.06)  # of 500 draws


def test_a_mean_of_ranks_sees_only_the_order():
    y, members = binary(noises=(1.0, 2.0, 3.0))
    other = {
        name: two_classes(each[:, 1] ** (2 + at) / 3)
        for at, (name, each) in enumerate(members.items())
    }
    blends = [fit_blend("rank_mean", each, y, LOG, 0) for each in (members, other)]
    first, second = (
        blend.apply(each)[:, 1] for blend, each in zip(blends, (members, other), strict=True)
    )
    np.testing.assert_array_equal(
        np.argsort(first, kind="stable"), np.argsort(second, kind="stable")
    )
    assert roc_auc_score(y, first) == roc_auc_score(y, second)
    plain = [sum(each.values())[:, 1] for each in (members, other)]
    assert roc_auc_score(y, plain[0]) != roc_auc_score(y, plain[1])


def test_a_mean_of_ranks_has_the_distribution_of_the_mean():
    y, members = values(noises=(1, 2, 3))
    blend = fit_blend("rank_mean", members, y, SQUARED, 0)
    found = blend.apply(members)
    mean = np.mean([members[name] for name in blend.members], axis=0)
    assert found.mean() == pytest.approx(mean.mean())  # equal ranks share the mean of their values
    assert np.abs(np.sort(found) - np.sort(mean)).mean() < 0.01 * mean.std()
    y, members = binary()
    found = fit_blend("rank_mean", members, y, LOG, 0).apply(members)
    np.testing.assert_allclose(found.sum(1), 1)
    averaged = sum(members.values()) / 3
    assert LOG.rows(y, found).mean() < LOG.rows(y, averaged).mean() + 0.02


def test_a_mean_of_ranks_leaves_out_the_worse_half_where_the_mean_does():
    y, members = values(noises=(1, 1, 1, 20, 20, 20))
    ranked, mean = (fit_blend(method, members, y, SQUARED, 0) for method in ("rank_mean", "mean"))
    assert ranked.members == mean.members == ["m0", "m1", "m2"]
    kept = {name: members[name] for name in ranked.members}
    np.testing.assert_array_equal(ranked.apply(members), ranked.apply(kept))


def test_equal_values_share_the_rank_in_their_middle():
    rank = Curve.rank(np.array([5.0, 1.0, 5.0, 7.0]))
    np.testing.assert_allclose(
        rank(np.array([0, 1, 5, 6, 7, 9])), np.array([1, 1, 4, 5.5, 7, 7]) / 8
    )


def test_ranks_of_many_rows_need_a_thousand_points():
    y, members = values(rows=3000)
    ranks = fit_blend("rank_mean", members, y, SQUARED, 0).to_dict()["ranks"]
    assert len(ranks["members"]["m0"][0][0]) == len(ranks["back"][0][1]) == 1000


def test_values_of_a_metric_of_logarithms_are_averaged_there():
    y = np.array([10.0, 20.0, 30.0])
    members = {"a": y * 2, "b": y / 2}
    blend = fit_blend("mean", members, y, Loss("squared", log=True), 0)
    expected = np.expm1(np.log1p(list(members.values())).mean(0))
    np.testing.assert_allclose(blend.apply(members), expected)
    rows = Loss("squared", log=True).rows(y, members["a"])
    np.testing.assert_allclose(rows, (np.log1p(y) - np.log1p(2 * y)) ** 2)


def test_losses_of_rows_by_hand():
    p = np.array([[0.2, 0.8], [1.0, 0.0]])
    np.testing.assert_allclose(LOG.rows(np.array([1, 1]), p), -np.log([0.8, 1e-15]))
    labels = Loss("labels").rows(np.array([[0, 1], [1, 1]]), p)
    np.testing.assert_allclose(labels, -np.log([[0.8, 0.8], [1, 1e-15]]).mean(1))
    bounds = np.array([[[1.0, 0.0, 9.0]], [[2.0, 0.0, 9.0]]])
    np.testing.assert_allclose(SQUARED.rows(np.array([0.0, 4.0]), bounds), [1, 4])
    np.testing.assert_allclose(Loss("absolute").rows(np.array([0.0, 4.0]), bounds), [1, 2])


@pytest.mark.parametrize("kind", ["log", "labels", "squared", "absolute"])
def test_the_quick_mean_is_the_mean_of_rows(kind):
    columns = np.random.default_rng(0).random((3, 37, 2))
    columns[0, :20] = 0  # 16 factors of the smallest probability are not 0
    loss = Loss(kind)
    np.testing.assert_allclose(loss.mean(columns), loss.of(columns).mean(1))


@pytest.mark.parametrize("method", METHODS)
def test_odd_members_are_defined(method):
    y, members = binary(rows=10)
    same = {"a": members["m0"], "b": members["m0"]}
    np.testing.assert_allclose(fit_blend(method, same, y, LOG, 0).apply(same), same["a"])
    alone = {"a": members["m0"]}
    assert fit_blend(method, alone, y, LOG, 0).weights == {"a": 1}
    certain = {"right": two_classes(y.astype(float)), "wrong": two_classes(1.0 - y)}
    assert np.isfinite(LOG.rows(y, fit_blend(method, certain, y, LOG, 0).apply(certain))).all()
    one_class = np.zeros(10, int)
    assert np.isfinite(fit_blend(method, members, one_class, LOG, 0).apply(members)).all()
    perfect = {"a": y * 1.0, "b": y + 1.0}
    assert np.isfinite(fit_blend(method, perfect, y, SQUARED, 0).apply(perfect)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_shuffled_target_is_not_learned(method):
    rng = np.random.default_rng(0)
    seen, unseen = [], []
    for _ in range(10):
        y = rng.integers(0, 2, 100)
        members = {f"m{at}": two_classes(expit(rng.normal(0, 1, 100))) for at in range(10)}
        how = np.arange(100), np.array_split(np.arange(100), 5), LOG, 0
        unseen.append(roc_auc_score(y, cross_fit(method, members, y, *how)[:, 1]))
        seen.append(roc_auc_score(y, fit_blend(method, members, y, LOG, 0).apply(members)[:, 1]))
    assert np.mean(unseen) == pytest.approx(0.5, abs=0.05)
    if method != "rank_mean":  # which is not fitted to the target
        assert np.mean(seen) > 0.56


def test_weights_of_many_rows_are_fitted_to_a_sample():
    rows = FIT_VALUES + 5000
    y, members = values(rows=rows, noises=(1, 1))
    all_rows = stack_weights(reduced(SQUARED, y, members), SQUARED, np.random.default_rng(0))
    found = list(fit_blend("stack", members, y, SQUARED, 0).weights.values())
    np.testing.assert_allclose(found, all_rows, atol=0.01)
    assert found != all_rows.tolist()
    assert found == list(fit_blend("stack", members, y, SQUARED, 0).weights.values())


def test_members_without_weight_are_not_needed():
    blend = Blend("stack", {"a": 0.5, "b": 0.0, "c": 0.5})
    np.testing.assert_allclose(blend.apply({"a": np.zeros(2), "c": np.ones(2)}), 0.5)
    message = "the blend needs the predictions of c; there are only: a, b"
    with pytest.raises(ValueError, match=message):
        blend.apply({"a": np.zeros(2), "b": np.zeros(2)})


def test_errors_name_the_member_and_the_row():
    y, members = values(rows=10)
    members["m1"][7] = np.nan
    with pytest.raises(ValueError, match="the prediction of member m1 is not a number in row 7"):
        fit_blend("mean", members, y, SQUARED, 0)
    with pytest.raises(ValueError, match=r"m0 has the shape \(10,\) and b \(9,\)"):
        fit_blend("mean", {"m0": members["m0"], "b": np.zeros(9)}, y, SQUARED, 0)
    with pytest.raises(ValueError, match="no blend is called 'median'; there are: mean, rank_mean"):
        fit_blend("median", members, y, SQUARED, 0)
    with pytest.raises(ValueError, match="at least one member"):
        fit_blend("mean", {}, y, SQUARED, 0)


def test_a_blend_is_described_in_words():
    blend = Blend("greedy", {"linear": 0.2, "trees": 0.45, "knn": 0.0, "tabular": 0.35})
    assert describe(blend) == "0.45 trees + 0.35 tabular + 0.20 linear"
    assert describe(Blend.single("trees")) == "trees"
    y, members = values(rows=10)
    ranked = fit_blend("rank_mean", members, y, SQUARED, 0)
    assert describe(ranked) == "mean rank of m0, m1, m2"
