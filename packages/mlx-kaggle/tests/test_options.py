"""Options of members: each changes the model, none changes nothing, and wrong ones are refused."""

import json

import numpy as np
import pytest

from mlx_kaggle.members.catalog import CONSTANT, KINDS, PLAIN, TEXT, fit_arguments, module_of
from mlx_kaggle.members.catalog import options_of as options_table
from mlx_kaggle.members.columns import ColumnFeatures
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.competition import Competition
from mlx_tabtext import infer_schema
from mlx_trainer import ConfigError, dump_config, load_config

# Of each member: an option far from its default.
FAR = {
    "linear": {"alpha": 300.0},
    "trees": {"max_leaf_nodes": 2, "max_iter": 30},
    "lightgbm": {"num_leaves": 2, "learning_rate": 0.3},
    "xgboost": {"max_depth": 1, "learning_rate": 0.3},
    "catboost": {"depth": 1, "learning_rate": 0.3},
    "forest": {"max_features": 1, "n_estimators": 20},
    "neighbours": {"count": 100},
    "kernel": {"penalty": 0.01},
    "embeddings": {"variant": "linear"},
}


@pytest.fixture(scope="module")
def data():
    """A regression on two numbers and a category: competition, columns and targets."""
    rng = np.random.default_rng(0)
    a, b, words = *rng.normal(size=(2, 120)), rng.normal(size=(120, 6)).astype(np.float32)
    kind = rng.choice(["red", "green"], 120)
    table = {"a": a.tolist(), "b": b.tolist(), "kind": kind.tolist()}
    schema = infer_schema({**table, "y": a.tolist()}, target="y")
    competition = Competition(schema, ("y",), "regression", "rmse", (), None)
    columns = ColumnFeatures.fit(competition, table, seed=0).transform(table, words)
    return competition, columns, a + (kind == "red") * b


def configured(name, options):
    given = [f"options.{name}.{key}={value}" for key, value in options.items()]
    return resolve_config("quick", overrides=given)


def fit_and_predict(name, columns, competition, y, options):
    arguments = fit_arguments(configured(name, options), name)
    module = module_of(name)
    return module.predict(module.fit(competition, columns, y, 0, None, 1, **arguments), columns)


@pytest.mark.parametrize("name", FAR)
def test_an_option_changes_the_model_and_none_changes_nothing(name, data):
    if needs := KINDS[name].needs:
        pytest.importorskip(needs, reason="an optional extra of mlx-kaggle")
    competition, columns, y = data
    module = module_of(name)
    usual = module.fit(competition, columns, y, 0, None, 1, **KINDS[name].options)
    usual = module.predict(usual, columns)
    np.testing.assert_array_equal(fit_and_predict(name, columns, competition, y, {}), usual)
    other = fit_and_predict(name, columns, competition, y, FAR[name])
    assert np.abs(other - usual).max() > 1e-3


def test_options_reach_the_network_for_tables(data):
    competition, columns, y = data
    columns = columns.take(slice(0, 60))
    options = fit_arguments(configured("tabular", {"k": 2, "d_block": 8}), "tabular")
    model = module_of("tabular").fit(competition, columns, y[:60], 0, None, 1, **options)
    assert (model.models[0].k, model.models[0].d_block) == (2, 8)


def test_every_option_is_an_argument_of_its_member_with_a_valid_search_range():
    for name in KINDS:
        for key, option in options_table(name).items():
            for end in option.choices or (option.low, option.high):
                assert option.problem(end) is None, (name, key)
            assert option.choices or option.low < option.high, (name, key)
            assert not option.log or option.low > 0, (name, key)
    assert not any(options_table(name) for name in (TEXT, PLAIN, CONSTANT))


def test_one_is_all_columns_and_not_one_column():
    config = configured("forest", {"max_features": 1})
    value = fit_arguments(config, "forest")["options"]["max_features"]
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("options.tres.max_iter=3", "options: unknown member 'tres'; did you mean 'trees'?"),
        (
            "options.trees.max_dept=3",
            "options: trees has no option 'max_dept'; did you mean 'max_depth'?",
        ),
        ("options.trees.max_iter=3.5", "options: trees.max_iter must be a whole number, got 3.5"),
        ("options.trees.max_iter=0", "options: trees.max_iter must be at least 1, got 0"),
        ("options.linear.alpha=0", "options: linear.alpha must be above 0, got 0"),
        (
            "options.forest.max_features=2",
            "options: forest.max_features must be above 0 and at most 1, got 2",
        ),
        (
            "options.embeddings.variant=tree",
            "options: embeddings.variant must be one of both, linear, trees; got 'tree'",
        ),
        ("options.trees=3", "options.trees: must be keys and values, got 3"),
    ],
)
def test_a_wrong_option_names_the_right_ones(override, problem):
    with pytest.raises(ConfigError) as caught:
        resolve_config("quick", overrides=[override])
    assert str(caught.value) == f"override {override!r}: {problem}"


def test_options_are_saved_and_read(tmp_path):
    config = configured("trees", {"learning_rate": "1e-2", "max_iter": 50})
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert load_config(type(config), file=tmp_path / "run.yaml") == config
    assert config.options == {"trees": {"learning_rate": 0.01, "max_iter": 50}}


def test_a_run_with_options_scores_otherwise(run_cli, write_csv, passengers):
    train = ("train", "--train", write_csv("train.csv", passengers(80)), "--target", "Survived",
             "--members", "linear", "--folds", 2, "--metric", "log_loss", "--json",
             "--set", "blend.generate=none")  # fmt: skip
    scores = [
        json.loads(run_cli(*train, "--output", f"run{n}", *more).stdout)["members"]
        for n, more in enumerate(((), ("--set", "options.linear.alpha=300")))
    ]
    assert scores[0]["linear"]["score"] < scores[1]["linear"]["score"]
    assert scores[0]["HistGradientBoosting"]["score"] == scores[1]["HistGradientBoosting"]["score"]
