"""Every member on every task: shapes, files, classes without rows, missing kinds of columns."""

from dataclasses import replace
from importlib import import_module
from itertools import product

import numpy as np
import pytest
from scipy.sparse import csr_array

from mlx_kaggle.members import forest, gradient_trees
from mlx_kaggle.members.boosted import BOOSTERS
from mlx_kaggle.members.catalog import without_columns
from mlx_kaggle.members.columns import ColumnFeatures, Columns
from mlx_kaggle.members.outputs import Outputs
from mlx_kaggle.tables.competition import Competition, Forecast
from mlx_tabtext import infer_schema

ROWS, LEVELS = 120, (0.05, 0.95)
PLAIN = ("gradient_trees", "linear_words", "forest", "neighbours", "embeddings")
MEMBERS = [(name, {}) for name in PLAIN] + [("boosted", {"library": name}) for name in BOOSTERS]
TASKS = ("binary", "multiclass", "multilabel", "ordinal", "regression", "two", "forecast")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few and quick trees, and few penalties."""
    settings = {"max_iter": 15, "min_samples_leaf": 5, "learning_rate": 0.2}
    monkeypatch.setattr(gradient_trees, "_settings", lambda rows: settings)
    monkeypatch.setattr(forest, "TREES", 20)
    monkeypatch.setattr("mlx_kaggle.members.linear_words.LOGISTIC_ALPHAS", (0.5,))
    monkeypatch.setattr("mlx_kaggle.members.linear_words.RIDGE_ALPHAS", (1.0, 10.0))
    monkeypatch.setattr("mlx_kaggle.members.boosted.ROUNDS", 60)


@pytest.fixture(params=MEMBERS, ids=lambda each: each[1].get("library", each[0]))
def member(request):
    """A module with its fit for one library; skip without the library."""
    name, options = request.param
    if options:
        pytest.importorskip(options["library"], reason="an optional extra of mlx-kaggle")
    module = import_module(f"mlx_kaggle.members.{name}")

    def fit(competition, columns, y, levels=None, seed=0):
        return module.fit(competition, columns, y, seed, levels, threads=1, **options)

    return module, fit


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    words = rng.choice(["grey", "odd", "plain", "silly", "warm", "cold"], (ROWS, 4))
    numbers = rng.normal(size=(ROWS, 4)).round(3)
    return {
        "a": ["" if n % 9 == 0 else str(each) for n, each in enumerate(numbers[:, 0])],
        "b": numbers[:, 1].astype(str).tolist(),
        "kind": rng.choice(["red", "green", "blue"], ROWS).tolist(),
        "note": [" ".join(row) for row in words],
        **{f"lag {n}": numbers[:, n].tolist() for n in (2, 3)},
    }


def compete(table, task, ignored=()):
    kinds = {"note": "text", "kind": "categorical", **dict.fromkeys(ignored, "ignored")}
    schema = infer_schema({**table, "y": ["0"] * ROWS}, target="y", kinds=kinds)
    classes = {"binary": "ab", "multiclass": "abc", "multilabel": "ab", "ordinal": "1234"}
    forecast = None
    if task == "forecast":
        forecast = FixedLags("y", "time", horizon=2, lookback=2, season=2)
    task = "regression" if task == "two" else task
    return Competition(schema, ("y",), task, "rmse", tuple(classes.get(task, ())), None,
                       forecast=forecast)  # fmt: skip


class FixedLags(Forecast):
    """A forecast whose lags are the columns of the table."""

    @property
    def lags(self):
        return "lag 2", "lag 3"


def targets(table, task):
    signal = np.array(table["b"], float) + (np.array(table["kind"]) == "red")
    silly = np.array(["silly" in note for note in table["note"]])
    if task in ("regression", "two", "forecast"):
        return signal if task == "regression" else np.stack([signal, silly - signal], 1)
    if task == "multilabel":
        return np.stack([signal > 0, silly], 1).astype(np.int64)
    return np.digitize(signal, {"binary": [0], "multiclass": [-0.5, 0.8]}.get(task, [-1, 0, 1]))


def columns_of(competition, table, rows=slice(None)):
    part = {name: cells[rows] for name, cells in table.items()}
    words = np.random.default_rng(1).normal(size=(ROWS, 6)).astype(np.float32)
    return ColumnFeatures.fit(competition, part, seed=0).transform(part, words[rows])


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_column_that_no_training_row_knows_says_nothing(member, table, task):
    module, fit = member
    table = {**table, "a": ["", "0.5"] * (ROWS // 2)}
    competition, y = compete(table, task), targets(table, task)
    everything = columns_of(competition, table)
    assert np.isnan(everything.numbers[::2]).any(0).sum() == 1
    found = module.predict(fit(competition, everything.take(slice(0, None, 2)), y[::2]), everything)
    assert np.isfinite(found).all()
    assert len(found) == ROWS


def test_the_baseline_takes_a_column_that_one_of_many_rows_knows():
    rows = 10_001
    numbers = np.random.default_rng(0).normal(size=(rows, 2))
    table = {"b": numbers[:, 0].tolist(), "a": ["1" if row == 9 else "" for row in range(rows)]}
    kinds = {"b": "numeric", "a": "numeric"}
    schema = infer_schema({**table, "y": ["0"] * rows}, target="y", kinds=kinds)
    competition = Competition(schema, ("y",), "regression", "rmse", (), None)
    columns = ColumnFeatures.fit(competition, table, seed=0).transform(table)
    for seed in range(12):  # the row is among the tenth that stops the boosting
        model = gradient_trees.fit(competition, columns.take(slice(0, rows)), numbers[:, 1], seed,
                                   plain=True)  # fmt: skip
        assert np.isfinite(gradient_trees.predict(model, columns.take(slice(0, 5)))).all()


@pytest.mark.parametrize("task", TASKS)
def test_a_saved_member_predicts_the_same_in_the_right_shape(member, table, task, tmp_path):
    module, fit = member
    competition, y = compete(table, task), targets(table, task)
    columns = columns_of(competition, table)
    model = fit(competition, columns, y)
    found = module.predict(model, columns)
    classes = len(competition.classes)
    assert found.shape == ((ROWS, classes) if task in ("binary", "multiclass") else y.shape)
    if task in ("binary", "multiclass"):
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        assert (found.argmax(1) == y).mean() > 0.6
    elif task != "multilabel":
        assert np.square(found - y).mean() < 0.9 * np.square(y - y.mean(0)).mean()
    module.save(model, tmp_path / "member")
    again = module.predict(module.load(tmp_path / "member"), columns)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(module.predict(fit(competition, columns, y), columns), found)
    rows = np.array([3, 50, 51, 119])
    np.testing.assert_array_equal(module.predict(model, columns.take(rows)), found[rows])


@pytest.mark.parametrize("task", ["regression", "two", "forecast"])
def test_intervals_surround_the_value_after_loading_too(member, table, task, tmp_path):
    module, fit = member
    competition, y = compete(table, task), targets(table, task)
    columns = columns_of(competition, table)
    if not module.supports(competition, LEVELS):
        with pytest.raises(ValueError, match="has no intervals; leave it out of --members"):
            fit(competition, columns, y, LEVELS)
        return
    model = fit(competition, columns, y, LEVELS)
    found = module.predict(model, columns)
    assert found.shape == (ROWS, 1 if task == "regression" else 2, 3)
    assert (found[..., 1] <= found[..., 0]).all()
    assert (found[..., 0] <= found[..., 2]).all()
    truth = y.reshape(ROWS, -1)
    assert ((found[..., 1] <= truth) & (truth <= found[..., 2])).mean() > 0.6
    module.save(model, tmp_path)
    np.testing.assert_array_equal(module.predict(module.load(tmp_path), columns), found)


@pytest.mark.parametrize("only", [None, 1])
def test_a_class_without_training_rows_gets_no_share(member, table, only, tmp_path):
    module, fit = member
    competition = compete(table, "multiclass")
    columns = columns_of(competition, table)
    y = targets(table, "binary") * 2 if only is None else np.full(ROWS, only)
    model = fit(competition, columns, y)
    found = module.predict(model, columns)
    assert found.shape == (ROWS, 3)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert not found[:, 1 if only is None else [0, 2]].any()
    module.save(model, tmp_path)
    np.testing.assert_array_equal(module.predict(module.load(tmp_path), columns), found)


def test_a_single_row_of_a_class_and_a_constant_label_are_fitted(member, table):
    module, fit = member
    y = targets(table, "binary")
    y[7] = 2
    competition = compete(table, "multiclass")
    columns = columns_of(competition, table)
    assert module.predict(fit(competition, columns, y), columns).shape == (ROWS, 3)
    labels = np.stack([targets(table, "binary"), np.zeros(ROWS, int)], 1)
    found = module.predict(fit(compete(table, "multilabel"), columns, labels), columns)
    assert not found[:, 1].any()


@pytest.mark.parametrize(
    "ignored",
    [("a", "b", "lag 2", "lag 3"), ("note",), ("kind",), ("kind", "note")],
    ids=["no numbers", "no text", "no category", "numbers only"],
)
def test_a_table_needs_not_have_every_kind_of_column(member, table, ignored):
    module, fit = member
    competition = compete(table, "binary", ignored)
    columns = columns_of(competition, table)
    found = module.predict(fit(competition, columns, targets(table, "binary")), columns)
    assert found.shape == (ROWS, 2)


def test_no_column_is_an_error_with_a_remedy(member, table):
    module, fit = member
    competition = compete(table, "binary", tuple(table))
    columns = columns_of(competition, table)
    if module.__name__.endswith(("embeddings", "neighbours")):  # those given are columns too
        columns = replace(columns, embeddings=None)
    with pytest.raises(ValueError, match="leave it out of --members"):
        fit(competition, columns, targets(table, "binary"))


def test_a_shuffled_target_gives_chance(member, table):
    module, fit = member
    competition = compete(table, "binary")
    columns = columns_of(competition, table)
    y = np.random.default_rng(3).permutation(targets(table, "binary"))
    train, held = np.arange(80), np.arange(80, ROWS)
    found = module.predict(fit(competition, columns.take(train), y[train]), columns.take(held))
    assert abs((found.argmax(1) == y[held]).mean() - 0.5) < 0.25


def test_boosting_is_the_mean_of_models_stopped_on_fifths(member, table, monkeypatch):
    module, fit = member
    if not module.__name__.endswith("boosted"):
        pytest.skip("not a library of boosting")
    competition, y = compete(table, "regression"), targets(table, "regression")
    columns = columns_of(competition, table)
    data = module.Data(*module.tree_matrix(columns, ""))
    model = fit(competition, columns, y)
    booster, problem = module.BOOSTERS[model.library], model.outputs.problems(y)[0]

    def by(*bag):
        return module.predict(replace(model, bags=(bag,)), columns)

    splits = module._splits(problem, ROWS, False, 0)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([held for _, held in splits])), range(ROWS)
    )
    assert len(model.bags[0]) == len(model.rounds[0]) == len(splits) == 5
    np.testing.assert_allclose(by(*model.bags[0]), np.mean([by(m) for m in model.bags[0]], 0))
    for seed, (kept, held) in enumerate(splits):
        assert not set(kept) & set(held)
        part, watched = replace(problem, y=y[kept]), (data.take(held), y[held])
        again, rounds = booster.train(data.take(kept), part, seed, 1, module.ROUNDS, watched)
        assert rounds == model.rounds[0][seed]
        np.testing.assert_array_equal(by(model.bags[0][seed]), by(again))

    monkeypatch.setattr(module, "LARGE", ROWS)
    whole = fit(competition, columns, y)
    again, _ = booster.train(data, problem, 0, 1, whole.rounds[0][0])
    assert len(whole.bags[0]) == 1
    np.testing.assert_array_equal(by(*whole.bags[0]), by(again))


def test_a_model_of_xgboost_ends_with_its_best_round(table):
    pytest.importorskip("xgboost", reason="an optional extra of mlx-kaggle")
    from mlx_kaggle.members import boosted

    competition, y = compete(table, "regression"), targets(table, "regression")
    model = boosted.fit(competition, columns_of(competition, table), y, 0, library="xgboost")
    assert [each.num_boosted_rounds() for each in model.bags[0]] == list(model.rounds[0])


@pytest.mark.parametrize("follows", [True, False])
def test_a_line_follows_numbers_far_out_only_where_the_rows_do(table, follows):
    from mlx_kaggle.members import linear_words

    number = np.array(table["b"], float)
    number[::10] *= 8
    y = number if follows else 3 * np.tanh(number / 3)
    table = {**table, "b": number.astype(str).tolist()}
    competition = compete(table, "regression")
    columns = columns_of(competition, table)
    model = linear_words.fit(competition, columns, y, 0)
    assert model.clipped is not follows
    assert np.square(linear_words.predict(model, columns) - y).mean() < 0.2 * y.var()


def test_outputs_survive_json(table):
    for task, levels in product(TASKS, (None, LEVELS)):
        outputs = Outputs.of(compete(table, task), targets(table, task), levels)
        assert Outputs.from_dict(outputs.to_dict()) == outputs


def test_a_missing_library_is_named(monkeypatch, table):
    from mlx_kaggle.members import boosted

    monkeypatch.setattr(boosted, "find_spec", lambda name: None)
    assert boosted.installed() == ()
    competition = compete(table, "binary")
    columns = columns_of(competition, table)
    with pytest.raises(ValueError, match=r'^lightgbm is not installed: pip install "mlx-kaggle\['):
        boosted.fit(competition, columns, targets(table, "binary"), 0)


def test_boosting_is_silent_and_leaves_no_files(member, table, tmp_path, monkeypatch, capfd):
    module, fit = member
    monkeypatch.chdir(tmp_path)
    competition = compete(table, "binary")
    columns = columns_of(competition, table)
    module.predict(fit(competition, columns, targets(table, "binary")), columns)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_plain_boosting_is_left_out_if_every_column_is_generated():
    nothing, empty = csr_array((3, 0), dtype=np.float32), np.zeros((3, 0), np.float32)
    plain = Columns(empty, empty, empty, nothing, nothing, empty)
    generated = replace(plain, numbers=np.ones((3, 1)))
    names = ["constant", "histgb", "trees", "linear"]
    assert without_columns(names, generated, plain) == ["histgb", "linear"]
    assert without_columns(names, generated, generated) == ["linear"]
    assert without_columns(names, plain, plain) == ["histgb", "trees", "linear"]
