import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_tabular import TabularClassifier, TabularRegressor
from mlx_tabular.splits import hold_out


def rows_of(rng, count):
    x = rng.uniform(-2, 2, (count, 3))
    return x, np.abs(x[:, 0]) + np.sign(x[:, 1] * x[:, 2])


def test_training_beats_a_constant_and_a_linear_fit():
    x, y = rows_of(np.random.default_rng(0), 1200)
    train, test = slice(0, 900), slice(900, None)
    model = TabularRegressor(k=8, d_block=32, max_epochs=40, batch_size=128).fit(x[train], y[train])
    losses = [each["train_loss"] for each in model.history_]
    assert losses[-1] < 0.3 * losses[0]
    design = np.c_[x, np.ones(len(x))]
    linear = design[test] @ np.linalg.lstsq(design[train], y[train], rcond=None)[0]
    error = np.mean((model.predict(x[test]) - y[test]) ** 2)
    assert error < 0.3 * np.mean((linear - y[test]) ** 2)
    assert error < 0.3 * np.var(y[test])


def test_classes_are_learned_and_probabilities_sum_to_one():
    x, y = rows_of(np.random.default_rng(0), 900)
    labels = np.array(["low", "mid", "top"])[np.digitize(y, (0.2, 1.2))]
    model = TabularClassifier(k=8, d_block=32, max_epochs=25, batch_size=128)
    model.fit(x[:700], labels[:700])
    assert model.classes_.tolist() == ["low", "mid", "top"]
    probabilities = model.predict_proba(x[700:])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert model.score(x[700:], labels[700:]) > 0.8
    assert (model.predict(x[700:]) == model.classes_[probabilities.argmax(1)]).all()


@pytest.mark.parametrize("embeddings", ["piecewise", None])
@pytest.mark.parametrize("arch", ["tabm", "tabm-mini", "tabm-packed", "mlp"])
def test_every_architecture_learns(table, regressor, arch, embeddings):
    x, y, _ = table
    kind = {"k": 1} if arch == "mlp" else {"arch_type": arch}
    model = regressor(**kind, num_embeddings=embeddings, max_epochs=15, learning_rate=0.01)
    model.fit(x, y)
    assert model.history_[-1]["train_loss"] < 0.9 * model.history_[0]["train_loss"]


def test_early_stopping_restores_the_best_epoch(table, regressor):
    x, y, _ = table
    options = {"learning_rate": 0.05, "validation_fraction": 0.0}
    validation = x[90:], y[90:]
    stopped = regressor(**options, max_epochs=60, patience=4).fit(x[:90], y[:90], None, validation)
    scores = [each["valid_score"] for each in stopped.history_]
    best = stopped.best_epoch_
    assert best == int(np.argmin(scores)) + 1
    assert len(scores) == best + 4
    again = regressor(**options, max_epochs=best).fit(x[:90], y[:90])
    np.testing.assert_array_equal(again.predict(x), stopped.predict(x))
    error = np.mean((stopped.predict(x[90:]) - y[90:]) ** 2) / np.var(y[:90])
    assert abs(error - min(scores)) < 1e-5  # of the ensemble's prediction, not of the members'


def test_equal_seeds_give_equal_bits_and_others_do_not(table, classifier):
    x, _, labels = table
    first, second, other = (
        classifier(seed=seed).fit(x, labels).predict_proba(x) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_rows_of_weight_zero_are_left_out(table, classifier, regressor):
    x, y, labels = table
    weights = np.ones(120)
    weights[::3] = 0
    used = weights > 0
    for model, targets in ((classifier(), labels), (regressor(), y)):
        weighted = model.fit(x, targets, sample_weight=weights)._predict(x)
        np.testing.assert_array_equal(model.fit(x[used], targets[used])._predict(x), weighted)


def test_weights_move_the_prediction(table, regressor):
    x, y, _ = table
    weights = np.where(y > 1, 50.0, 1.0)
    plain = regressor(max_epochs=30, learning_rate=0.01).fit(x, y)
    heavy = regressor(max_epochs=30, learning_rate=0.01).fit(x, y, sample_weight=weights)
    error = [np.mean((each.predict(x) - y)[y > 1] ** 2) for each in (plain, heavy)]
    assert error[1] < error[0]
    assert heavy.predict(x).mean() > plain.predict(x).mean()


@settings(max_examples=10)
@given(st.permutations(range(40)))
def test_predictions_follow_their_rows(order):
    np.testing.assert_allclose(
        FITTED.predict(ROWS[list(order)]), FITTED.predict(ROWS)[list(order)], atol=1e-5
    )


ROWS = np.random.default_rng(5).normal(size=(40, 2))
FITTED = TabularRegressor(k=2, d_block=8, max_epochs=1).fit(ROWS, ROWS[:, 0])


def test_several_targets_are_fitted_at_once(table, regressor):
    x, y, _ = table
    both = np.stack([y, -1000 * y], 1)
    model = regressor(max_epochs=30, learning_rate=0.01).fit(x, both)
    predicted = model.predict(x)
    assert predicted.shape == (120, 2)
    assert (np.mean((predicted - both) ** 2, 0) < 0.7 * both.var(0)).all()
    assert model.score(x, both) > 0.3


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_a_loaded_estimator_predicts_the_same_bits(table, request, tmp_path, kind):
    x, y, labels = table
    mask = np.arange(5) == 4
    make = request.getfixturevalue(kind)
    model = make(categorical_features=mask, report=lambda facts: None)
    model.fit(x, labels if kind == "classifier" else y)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    np.testing.assert_array_equal(loaded._predict(x), model._predict(x))
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.best_epoch_ == model.best_epoch_
    assert sorted(each.name for each in (tmp_path / "model").iterdir()) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip
    loaded.fit(x, labels if kind == "classifier" else y)


@pytest.mark.parametrize("labels", [[0, 1], [True, False], [1.5, 2.5], ["a", "b"]])
def test_saved_classes_keep_their_type(tmp_path, labels):
    x = np.random.default_rng(0).normal(size=(20, 2))
    y = np.array(labels * 10)
    model = TabularClassifier(k=2, d_block=4, max_epochs=1).fit(x, y)
    model.save(tmp_path)
    loaded = TabularClassifier.load(tmp_path)
    assert loaded.classes_.dtype == y.dtype
    assert loaded.classes_.tolist() == np.unique(y).tolist()


def test_report_is_called_once_an_epoch(table, classifier):
    x, _, labels = table
    seen = []
    model = classifier(report=seen.append).fit(x, labels)
    assert seen == model.history_
    assert [each["epoch"] for each in seen] == [1, 2, 3]
    assert seen[0].keys() == {"epoch", "train_loss", "valid_score"}


def test_dense_columns_go_in_as_they_are(table, regressor):
    x, y, _ = table
    x = np.nan_to_num(x)
    model = regressor(dense_features=[0, 1, 2]).fit(x, y)
    inputs = model.preprocessor_.transform(x)
    np.testing.assert_array_equal(inputs.dense, x[:, :3].astype(np.float32))
    assert inputs.num.shape == (120, 0)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_are_enough(regressor, rows):
    x = np.arange(rows * 5, dtype=float).reshape(rows, 5)
    assert regressor().fit(x, np.arange(rows)).predict(x).shape == (rows,)


def test_a_table_of_constants_gives_the_frequencies(classifier):
    x = np.ones((60, 2))
    y = np.arange(60) % 3 == 0
    model = classifier(categorical_features=None, max_epochs=60, learning_rate=0.02).fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x)[:, 1], 1 / 3, atol=0.05)


def test_objects_with_text_and_none_are_a_table(table, classifier):
    x, _, labels = table
    objects = x.astype(object)
    objects[:, 4] = np.array(["red", "green", None], object)[x[:, 4].astype(int)]
    objects[0, 0] = None
    model = classifier().fit(objects, labels)
    assert model.preprocessor_.cardinalities == [4]
    objects[:, 4] = "blue"
    assert np.isfinite(model.predict_proba(objects)).all()


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.0, 0.9))
def test_a_part_of_each_class_is_held_out(labels, fraction):
    labels = np.array(labels)
    held = hold_out(len(labels), fraction, 0, labels)
    for label in np.unique(labels):
        count = np.sum(labels == label)
        assert held[labels == label].sum() <= count * fraction + 1
        assert held[labels == label].sum() >= np.floor(count * fraction) - 1
        assert not held[labels == label].all()


def test_parameters_are_plain_attributes():
    mask = np.array([True, False])
    model = TabularRegressor(k=3, categorical_features=mask)
    assert model.get_params()["categorical_features"] is mask
    assert model.set_params(k=5, seed=2) is model
    assert (model.k, model.seed) == (5, 2)
    assert repr(TabularRegressor(k=3, d_block=8)) == "TabularRegressor(k=3, d_block=8)"
    copy = type(model)(**model.get_params())
    assert copy.get_params() == model.get_params()


def test_the_model_is_a_plain_module(table, classifier):
    x, _, labels = table
    model = classifier().fit(x, labels)
    assert len(tree_flatten(model.model_.parameters())) > 10
    assert not model.model_.training
