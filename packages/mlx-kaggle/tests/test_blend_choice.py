"""The answer of a run: a blend if it is better than each member alone, estimated honestly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import rankdata

from mlx_kaggle.blend import METHODS, Blend, Loss, choose_blend, fit_blend, leave_one_out

LOG, SQUARED = Loss("log"), Loss("squared")


def folds(rows, count=5):
    return np.array_split(np.arange(rows), count)


def two_classes(p):
    return np.stack([1 - p, p], 1)


def auc(y):
    """Return the area under the curve, by ranks; scikit-learn's is ten times slower here."""

    def score(rows, p):
        truth, ranks = y[rows] == 1, rankdata(p[:, 1])
        return (ranks[truth].mean() - ranks[~truth].mean()) / len(rows) + 0.5

    return score


def rmse(y):
    return lambda rows, p: float(np.sqrt(np.square(y[rows] - p).mean()))


def values(rows, noises, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 3, rows)
    return y, {f"m{at}": y + rng.normal(0, noise, rows) for at, noise in enumerate(noises)}


def choose(y, members, loss=SQUARED, score=None, parts=None, **options):
    parts = folds(len(y)) if parts is None else parts
    greater = score is not None
    return choose_blend(members, y, parts, loss, score or rmse(y), greater, 0, **options)


def test_a_much_better_member_is_the_answer():
    y, members = values(300, (0.1, 3.0, 3.0, 3.0))
    members["mean_of_y"] = np.full(300, y.mean())
    choice = choose(y, members, constant="mean_of_y")
    assert choice.blend.weights["m0"] > 0.95
    found = rmse(y)(np.arange(300), choice.nested)
    assert found < 1.01 * choice.scores["m0"]


def test_independent_errors_are_blended():
    y, members = values(300, (1.0, 1.0, 1.0))
    choice = choose(y, members)
    best = min(choice.scores[name] for name in members)
    assert choice.blend.method in METHODS
    assert rmse(y)(np.arange(300), choice.nested) < 0.7 * best
    method = choice.blend.method
    assert choice.note.startswith(f"the blend ({method}) is better than the best member (m")
    assert choice.note.endswith(f"): {choice.scores[method]:.4f} against {best:.4f}")
    assert choice.scores[method] == rmse(y)(np.arange(300), choice.out_of_fold)
    again = fit_blend(method, members, y, SQUARED, 0)
    assert choice.blend.weights == again.weights


def test_what_is_fitted_to_a_part_does_not_predict_it():
    y, members = values(100, (1.0, 1.1, 1.3))
    choice = choose(y, members)
    method = choice.blend.method
    for part in folds(100):
        others = np.setdiff1d(np.arange(100), part)
        fitted = fit_blend(
            method, {n: p[others] for n, p in members.items()}, y[others], SQUARED, 0
        )
        expected = fitted.apply({n: p[part] for n, p in members.items()})
        np.testing.assert_array_equal(choice.out_of_fold[part], expected)


@pytest.mark.parametrize("constant", [None, "majority"])
def test_a_shuffled_target_scores_at_chance(constant):
    nested, best = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 300)
        members = {f"m{at}": two_classes(expit(rng.normal(0, 1, 300))) for at in range(8)}
        if constant:
            members[constant] = two_classes(np.full(300, 0.5))
        choice = choose(y, members, LOG, auc(y), constant=constant)
        nested.append(auc(y)(np.arange(300), choice.nested))
        best.append(max(choice.scores.values()))
    assert np.mean(nested) == pytest.approx(0.5, abs=0.025)
    assert np.mean(best) > 0.54  # as the nested score would be, were it of the chosen method


def test_only_noise_is_no_better_than_the_constant():
    notes = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 200)
        noise = {f"m{at}": two_classes(expit(rng.normal(0, 1, 200))) for at in range(4)}
        members = noise | {"majority": two_classes(np.full(200, y.mean()))}
        choice = choose(y, members, LOG, auc(y), constant="majority")
        notes.append(choice.note)
        if choice.note.startswith("nothing beats the constant prediction (majority): "):
            assert choice.blend == Blend.single("majority")
            np.testing.assert_array_equal(choice.out_of_fold, members["majority"])
        else:
            assert choice.note.endswith("over the constant prediction (majority) is within noise")
    assert sum(note.startswith("nothing beats") for note in notes) >= 3


def test_the_constant_wins_by_the_score_itself():
    rng = np.random.default_rng(0)
    y = rng.normal(0, 1, 100)
    members = {"a": rng.normal(0, 1, 100), "b": rng.normal(0, 1, 100), "mean": np.zeros(100)}
    with pytest.raises(ValueError, match="a member cannot be called mean"):
        choose(y, members, constant="mean")
    members["zero"] = members.pop("mean")
    choice = choose(y, members, constant="zero")
    assert choice.blend == Blend.single("zero")
    assert choice.note.startswith("nothing beats the constant prediction (zero): 1.")
    assert choice.note.endswith(f" against {choice.scores['zero']:.4f}")


def test_badly_calibrated_probabilities_still_beat_the_constant():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    certain = two_classes(expit(20 * ((2 * y - 1) * 0.7 + rng.normal(0, 1, 300))))
    members = {"certain": certain, "majority": two_classes(np.full(300, 0.5))}
    assert LOG.rows(y, certain).mean() > 1 > LOG.rows(y, members["majority"]).mean()
    choice = choose(y, members, LOG, auc(y), constant="majority")
    assert choice.blend == Blend.single("certain")
    assert "majority" not in choice.note


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 25), count=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_the_answer_is_never_worse_out_of_fold_than_its_best_member(seed, rows, count):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 1, rows)
    members = {f"m{at}": rng.random() * y + rng.normal(0, 1, rows) for at in range(count)}
    parts = np.array_split(rng.permutation(rows), rng.integers(1, min(rows, 5) + 1))
    choice = choose(y, members, parts=parts)
    found = rmse(y)(np.arange(rows), choice.out_of_fold)
    assert found <= min(choice.scores[name] for name in members)
    assert np.isfinite(choice.nested).all()


def test_of_equals_the_simplest_is_chosen():
    y, members = values(50, (1.0,))
    choice = choose(y, {"a": members["m0"], "b": members["m0"]})
    assert choice.blend == Blend.single("a")
    assert choice.note.startswith("one member alone is best: a, ")


def test_of_equal_scores_that_with_less_loss_is_chosen():
    y, members = values(60, (1.0, 1.0))
    same = choose(y, members, score=lambda rows, p: 1.0)
    assert same.blend.method != "single"  # the mean of two has less loss than either
    assert "is as good as the best member (m" in same.note
    assert "): 1.0000" in same.note
    y, members = values(60, (1.0, 30.0))
    worse = choose(y, members, score=lambda rows, p: float((p == members["m0"][rows]).all()))
    assert worse.blend == Blend.single("m0")  # whatever the loss, a blend must not score less


def test_a_score_that_is_not_defined_leaves_the_member_of_least_loss():
    y, members = values(30, (2.0, 1.0))
    choice = choose(y, members, score=lambda rows, p: float("nan"))
    assert choice.blend == Blend.single("m1")


def test_small_and_odd_tables_are_defined():
    y, members = values(10, (1.0, 1.5))
    assert choose(y, {"a": members["m0"]}).note == "a is the only member"
    assert np.isfinite(choose(y, members, parts=[np.arange(10)]).nested).all()
    one = choose(y[:1], {n: p[:1] for n, p in members.items()}, parts=[np.arange(1)])
    assert one.blend.method == "single"
    constant = choose(y, {"a": members["m0"], "flat": np.zeros(10)}, constant="flat")
    assert constant.blend == Blend.single("a")
    assert constant.note == "one member alone is best: a"
    classes = np.repeat([0, 1], 10)  # each part has one class
    p = {
        name: two_classes(np.linspace(0.1, 0.9, 20) ** power)
        for name, power in (("a", 1), ("b", 2))
    }
    assert np.isfinite(choose(classes, p, LOG, auc(classes)).nested).all()
    with pytest.raises(ValueError, match="each of the 10 rows once"):
        choose(y, members, parts=[np.arange(5), np.arange(4, 10)])


def test_the_score_is_called_once_for_each_candidate_of_a_selection():
    y, members = values(100, (1.0, 1.0, 1.0))
    sizes = []
    choose(y, members, score=lambda rows, p: sizes.append(len(rows)) or -rmse(y)(rows, p))
    candidates = len(METHODS) + 3
    assert sizes == [100] * candidates + [80] * 5 * candidates


def test_leaving_out_a_member_costs_what_it_is_worth():
    y, members = values(400, (1.0, 1.0, 1.0, 30.0))
    blend = fit_blend("stack", members, y, SQUARED, 0)
    lost = leave_one_out(members, y, folds(400), SQUARED, blend)
    assert list(lost) == blend.members
    assert lost["m0"] == pytest.approx((1 / 2) / (1 / 3) - 1, abs=0.15)
    larger = {name: 1000 * each for name, each in members.items()}  # whatever the unit
    assert leave_one_out(larger, 1000 * y, folds(400), SQUARED, blend) == pytest.approx(lost)
    alone = leave_one_out(members, y, folds(400), SQUARED, Blend.single("m0"))
    best = min(SQUARED.rows(y, members[name]).mean() for name in ("m1", "m2"))
    assert alone == {"m0": pytest.approx(best / SQUARED.rows(y, members["m0"]).mean() - 1)}
    only = leave_one_out({"a": y}, y, folds(400), SQUARED, Blend.single("a"))
    assert np.isnan(only["a"])
