"""Gradient boosting, the rival of every task."""

import numpy as np
import pytest

from mlx_kaggle.members.trees import predict_trees
from mlx_kaggle.tables.competition import Competition
from mlx_tabtext import infer_schema


@pytest.fixture
def table():
    """Two numbers and a text; `y` follows from the numbers, `funny` from a word of the text."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).round(3)
    words = rng.choice(["grey", "odd", "plain", "silly"], (200, 6))
    return {
        "a": x[:, 0].astype(str).tolist(),
        "b": x[:, 1].astype(str).tolist(),
        "note": [" ".join(row) for row in words],
        "y": (x[:, 0] + x[:, 1] ** 2).tolist(),
        "funny": (words == "silly").any(1).astype(int).tolist(),
    }


def compete(table, task, *targets, classes=(), ignored=()):
    kinds = {"note": "text", **dict.fromkeys(ignored, "ignored")}
    schema = infer_schema(table, target=list(targets), kinds=kinds)
    return Competition(schema, targets, task, "accuracy", classes, None)


def split(table):
    halves = slice(0, 150), slice(150, 200)
    return tuple({name: cells[half] for name, cells in table.items()} for half in halves)


def test_words_of_a_text_column_are_learned(table):
    table["funny"] = ["yes" if "silly" in note else "no" for note in table["note"]]
    competition = compete(table, "binary", "funny", classes=("no", "yes"), ignored=("a", "b", "y"))
    train, val = split(table)
    y = np.array([cell == "yes" for cell in table["funny"]]).astype(int)
    found = predict_trees(competition, train, val, y[:150], seed=0)
    assert found is not None
    assert (found.argmax(1) == y[150:]).mean() > 0.9


def test_intervals_surround_the_value(table):
    competition = compete(table, "regression", "y", ignored=("note", "funny"))
    train, val = split(table)
    y = np.array(table["y"])
    found = predict_trees(competition, train, val, y[:150], 0, levels=(0.05, 0.95))
    assert found is not None
    assert found.shape == (50, 1, 3)
    assert (found[..., 1] <= found[..., 0]).all()
    assert (found[..., 0] <= found[..., 2]).all()
    assert np.abs(found[:, 0, 0] - y[150:]).mean() < 0.5 * np.abs(y[150:] - y.mean()).mean()


def test_each_label_is_learned_alone_and_a_constant_one_is_kept(table):
    labels = np.stack([np.array(table["y"]) > 1, np.zeros(200)], 1).astype(int)
    table |= {"high": labels[:, 0].tolist(), "never": labels[:, 1].tolist()}
    competition = compete(table, "multilabel", "high", "never", ignored=("note", "funny", "y"))
    train, val = split(table)
    found = predict_trees(competition, train, val, labels[:150], seed=0)
    assert found is not None
    assert ((found[:, 0] > 0.5) == labels[150:, 0]).mean() > 0.85
    assert not found[:, 1].any()


def test_ordered_classes_are_a_regression_on_class_numbers(table):
    codes = np.digitize(table["y"], [0, 1, 2])
    classes = ("0", "1", "2", "3")
    table["grade"] = codes.tolist()
    ignored = ("note", "funny", "y")
    competition = compete(table, "ordinal", "grade", classes=classes, ignored=ignored)
    train, val = split(table)
    found = predict_trees(competition, train, val, codes[:150], seed=0)
    assert found is not None
    assert found.shape == (50,)
    assert np.abs(found - codes[150:]).mean() < 0.5


def test_nothing_to_learn_from_is_no_model(table):
    competition = compete(table, "regression", "y", ignored=("a", "b", "note", "funny"))
    train, val = split(table)
    assert predict_trees(competition, train, val, np.array(table["y"])[:150], seed=0) is None
