import json

import numpy as np
import pytest

from mlx_tabular import TabularClassifier, TabularRegressor

X = np.arange(40.0).reshape(10, 4) ** 2 % 7
Y = np.arange(10) % 2


def with_value(array, place, value):
    changed = np.array(array, object if isinstance(value, str) else float)
    changed[place] = value
    return changed


INFINITE = with_value(X, (2, 1), np.inf)
TEXT = with_value(X, (2, 1), "abc")

TABLES = {
    "X must have two axes, rows and columns; got the shape (3,)": (np.ones(3), Y),
    "X must have rows and columns; got the shape (0, 4)": (X[:0], Y[:0]),
    "X must have rows and columns; got the shape (10, 0)": (X[:, :0], Y),
    "X[2, 1] is infinite; use NaN if it is missing": (INFINITE, Y),
    "X[2, 1] is 'abc', not a number; list column 1 in categorical_features, or use NaN for a "
    "missing value": (TEXT, Y),
    "y has 9 rows, but its table has 10": (X, Y[:9]),
}
VALUES = {
    "y[3] is nan; targets must be finite": with_value(Y, 3, np.nan),
    "y[4] is inf; targets must be finite": with_value(Y, 4, np.inf),
    "y must be numbers for a regressor": np.array(["a"] * 10),
    "y must have the shape (N,) or (N, T); got (10, 1, 1)": Y[:, None, None],
}
LABELS = {
    "y[3] is nan, which is no class": with_value(Y, 3, np.nan),
    "y[3] is None, which is no class": np.array([0, 1, 0, None, *[1] * 6], object),
    "y has one class only, 1; a classifier needs two": np.ones(10, int),
    "y must have one label a row, the shape (N,); got (10, 1)": Y[:, None],
}
WEIGHTS = {
    "sample_weight[1] is -1.0; weights must be finite and at least 0": with_value(Y, 1, -1),
    "sample_weight[1] is nan; weights must be finite and at least 0": with_value(Y, 1, np.nan),
    "sample_weight must have the shape (10,); got (9,)": np.ones(9),
    "sample_weight is 0 for every row": np.zeros(10),
}
PARAMETERS = {
    "k must be at least 1; got 0": {"k": 0},
    "n_bins must be at least 2; got 1": {"n_bins": 1},
    "n_blocks must be at least 1; got 0": {"n_blocks": 0},
    "batch_size must be at least 1; got 0": {"batch_size": 0},
    "num_embeddings must be 'piecewise' or None; got 'plr'": {"num_embeddings": "plr"},
    "validation_fraction must be at least 0 and below 1; got 1.0": {"validation_fraction": 1.0},
    "categorical_features has column 4, but X has columns 0 to 3": {"categorical_features": [4]},
    "categorical_features has column -1, but X has columns 0 to 3": {"categorical_features": [-1]},
    "dense_features is a mask of shape (2,), but X has 4 columns": {
        "dense_features": [True, False]
    },
    "categorical_features must be column numbers or a boolean mask; got ['a']": {
        "categorical_features": ["a"]
    },
    "column 1 is in categorical_features and in dense_features": {
        "categorical_features": [1, 2],
        "dense_features": [0, 1],
    },
}


def small(kind, **options):
    return kind(**({"k": 2, "d_block": 4, "max_epochs": 1} | options))


@pytest.mark.parametrize("message", TABLES)
@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_tables_that_cannot_be_read(kind, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        small(kind).fit(*TABLES[message])


@pytest.mark.parametrize("message", VALUES)
def test_targets_that_are_no_values(message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        small(TabularRegressor).fit(X, VALUES[message])


@pytest.mark.parametrize("message", LABELS)
def test_targets_that_are_no_classes(message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        small(TabularClassifier).fit(X, LABELS[message])


@pytest.mark.parametrize("message", WEIGHTS)
def test_weights_that_are_none(message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        small(TabularRegressor).fit(X, Y, WEIGHTS[message])


@pytest.mark.parametrize("message", PARAMETERS)
def test_parameters_out_of_range(message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        small(TabularRegressor, **PARAMETERS[message]).fit(X, Y)


def test_other_columns_than_those_of_fit(exactly):
    model = small(TabularRegressor).fit(X, Y)
    with pytest.raises(ValueError, match=exactly("X must have the 4 columns of fit; got 3")):
        model.predict(X[:, :3])
    with pytest.raises(ValueError, match=exactly("X must have the 4 columns of fit; got 3")):
        small(TabularRegressor).fit(X, Y, validation=(X[:, :3], Y))


def test_a_missing_dense_value(exactly):
    message = "X[1, 2] is missing, and dense_features has 2"
    with pytest.raises(ValueError, match=exactly(message)):
        small(TabularRegressor, dense_features=[2]).fit(with_value(X, (1, 2), np.nan), Y)


def test_a_validation_table_that_does_not_fit(exactly):
    with pytest.raises(ValueError, match=exactly("validation has the class 2, which y lacks")):
        small(TabularClassifier).fit(X, Y, validation=(X, Y + 1))
    message = "validation y has the shape (10, 2), but y has (10,)"
    with pytest.raises(ValueError, match=exactly(message)):
        small(TabularRegressor).fit(X, Y, validation=(X, np.ones((10, 2))))
    with pytest.raises(ValueError, match=exactly("validation y has 9 rows, but its table has 10")):
        small(TabularRegressor).fit(X, Y, validation=(X, Y[:9]))


def test_a_misspelt_parameter(exactly):
    message = "TabularRegressor has no parameter 'drop_out'; did you mean 'dropout'?"
    with pytest.raises(ValueError, match=exactly(message)):
        TabularRegressor().set_params(drop_out=0.2)


def test_an_estimator_that_is_not_fitted(tmp_path, exactly):
    message = "this TabularClassifier is not fitted; call fit first"
    for use in (lambda m: m.predict(X), lambda m: m.predict_proba(X), lambda m: m.save(tmp_path)):
        with pytest.raises(ValueError, match=exactly(message)):
            use(TabularClassifier())


def test_folders_that_are_not_of_one_save(tmp_path, exactly):
    small(TabularRegressor).fit(X, Y).save(tmp_path)
    message = f"{tmp_path} has a TabularRegressor, not a TabularClassifier"
    with pytest.raises(ValueError, match=exactly(message)):
        TabularClassifier.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"best_epoch": 7}))
    message = (
        f"config.json and model.safetensors in {tmp_path} are not of one save, or config.json was "
        "changed; save again"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        TabularRegressor.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": "x"}))
    message = f"{tmp_path / 'config.json'} has the format 'x', not 'mlx-tabular 1'"
    with pytest.raises(ValueError, match=exactly(message)):
        TabularRegressor.load(tmp_path)
