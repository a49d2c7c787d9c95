"""Where scikit-learn is installed, its tools work on the estimators."""

import numpy as np
import pytest

from mlx_tabular import TabularClassifier, TabularRegressor

base = pytest.importorskip("sklearn.base")
model_selection = pytest.importorskip("sklearn.model_selection")
pipeline = pytest.importorskip("sklearn.pipeline")

TINY = {"k": 2, "d_block": 8, "max_epochs": 2}


def test_a_clone_has_the_parameters_and_nothing_fitted(table, classifier):
    x, _, labels = table
    model = classifier(dense_features=np.array([False] * 5)).fit(x, labels)
    copy = base.clone(model)
    assert copy.get_params().keys() == model.get_params().keys()
    assert not hasattr(copy, "model_")
    copy.fit(x, labels)
    np.testing.assert_array_equal(copy.predict_proba(x), model.predict_proba(x))


def test_cross_validation_and_search_run():
    x = np.random.default_rng(0).normal(size=(60, 2))
    labels = np.repeat(["a", "b", "c"], 20)
    scores = model_selection.cross_val_score(TabularClassifier(**TINY), x, labels, cv=3)
    assert scores.shape == (3,)
    assert base.is_classifier(TabularClassifier())
    assert base.is_regressor(TabularRegressor())
    search = model_selection.GridSearchCV(TabularRegressor(**TINY), {"k": [1, 2]}, cv=2)
    assert search.fit(x, x[:, 0]).best_params_["k"] in (1, 2)
    steps = pipeline.make_pipeline(TabularRegressor(**TINY)).fit(x, x[:, 0])
    assert steps.predict(x).shape == (60,)
