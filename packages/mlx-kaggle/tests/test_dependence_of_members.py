"""What members choose on rows of other groups, or on later rows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from mlx_kaggle.members import boosted, forest, gradient_trees, kernel, linear_words, neighbours
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.linear import fit_linear
from mlx_kaggle.members.outputs import AUTO_STOPPING, Problem
from mlx_kaggle.members.tabular import fit as fit_tabular
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence
from mlx_tabtext import Schema, infer_schema

VALUE = Competition(Schema(()), ("y",), "regression", "rmse", (), None)
ROWS, EACH = 240, 8


def homes(rows: int = ROWS) -> Dependence:
    return Dependence("group", np.arange(rows) // EACH)


def days(rows: int = ROWS) -> Dependence:
    return Dependence("time", np.arange(rows) // EACH)


def fingerprints(dependence: Dependence | None, rows: int = ROWS, width: int = 6):
    """Columns that tell the group of a row, and values that follow from the group alone.

    They say nothing about another group, but everything about the target of group mates.
    """
    rng = np.random.default_rng(0)
    group = np.arange(rows) // EACH
    codes, y = rng.normal(size=(rows // EACH, width)), rng.normal(size=rows // EACH)
    numbers = codes[group] + 0.01 * rng.normal(size=(rows, width))
    nothing = csr_array(np.zeros((rows, 0), np.float32))
    empty = np.zeros((rows, 0), np.float32)
    scaled = numbers.astype(np.float32)
    columns = Columns(numbers, empty, scaled, nothing, nothing, empty, dependence=dependence)
    return columns, y[group] + 0.1 * rng.normal(size=rows)


def test_columns_keep_the_dependence_in_a_file_and_in_a_part(tmp_path):
    for dependence in (homes(), days()):
        columns = fingerprints(dependence)[0]
        columns.take(np.arange(5, 30)).save(tmp_path / "kept.npz")
        found = Columns.load(tmp_path / "kept.npz").dependence
        assert found is not None
        assert found.kind == dependence.kind
        np.testing.assert_array_equal(found.codes, dependence.codes[5:30])
    fingerprints(None)[0].save(tmp_path / "kept.npz")
    assert Columns.load(tmp_path / "kept.npz").dependence is None


def test_neighbours_do_not_count_on_group_mates():
    counts = {}
    for name, dependence in (("random", None), ("group", homes()), ("time", days())):
        columns, y = fingerprints(dependence)
        counts[name] = neighbours.fit(VALUE, columns, y, 0).count
    assert counts == {"random": 5, "group": 45, "time": 45}


def test_linear_penalties_are_those_of_new_groups_and_later_rows():
    sizes, fine = {}, {}
    for name, dependence in (("random", None), ("group", homes()), ("time", days())):
        columns, y = fingerprints(dependence, width=25)
        sizes[name] = np.abs(linear_words.fit(VALUE, columns, y, 0).weight).max()
        classes = Competition(Schema(()), ("y",), "binary", "accuracy", ("a", "b"), None)
        model = linear_words.fit(classes, columns, (y > 0).astype(int), 0)
        fine[name] = np.abs(model.weight).max()
    assert max(sizes["group"], sizes["time"]) < 0.7 * sizes["random"]
    assert max(fine["group"], fine["time"]) < 0.7 * fine["random"]


def test_the_linear_model_of_the_network_is_cross_fitted_by_group():
    numbers, y = fingerprints(None, width=25)
    table = {f"x{n}": column.tolist() for n, column in enumerate(numbers.numbers.T)}
    competition = replace(VALUE, schema=infer_schema(table))
    weights, closeness = {}, {}
    for name, dependence in (("random", None), ("group", homes()), ("time", days())):
        model, outputs = fit_linear(competition, table, y, "values", numeric_features=True,
                                    words=False, seed=0, dependence=dependence)  # fmt: skip
        assert model is not None
        assert outputs is not None
        assert (outputs != 0).all()
        weights[name], closeness[name] = np.abs(model.weight).max(), np.corrcoef(outputs, y)[0, 1]
    assert closeness["random"] > 0.7
    assert max(closeness["group"], closeness["time"]) < 0.4
    assert max(weights["group"], weights["time"]) < 0.8 * weights["random"]


def test_the_kernel_is_chosen_on_other_groups():
    chosen = {}
    for name, dependence in (("random", None), ("group", homes())):
        columns, y = fingerprints(dependence, width=3)
        (model,) = kernel.fit(VALUE, columns, y, 0).models
        chosen[name] = float(model.gamma)
    assert chosen["group"] < 0.5 * chosen["random"]


def test_intervals_of_a_forest_are_those_of_new_groups():
    widths = {}
    for name, dependence in (("random", None), ("group", homes())):
        columns, y = fingerprints(dependence)
        shifts = forest.fit(VALUE, columns, y, 0, (0.1, 0.9), options={"n_estimators": 30}).shifts
        widths[name] = shifts[0, 2] - shifts[0, 1]
    assert widths["group"] > 1.5 * widths["random"]


def test_the_baseline_stops_early_by_whole_groups():
    rows = AUTO_STOPPING + 8
    iterations = {}
    for name, dependence in (("random", None), ("group", homes(rows))):
        columns, y = fingerprints(dependence, rows, width=2)
        (model,) = gradient_trees.fit(VALUE, columns, y, 0, plain=True).models
        iterations[name] = model.n_iter_
    assert iterations["random"] == 100
    assert iterations["group"] < 50


def test_a_network_of_columns_stops_early_by_whole_groups():
    options = {"k": 2, "d_block": 32, "d_embedding": 4, "learning_rate": 0.01}
    epochs = {}
    for name, dependence in (("random", None), ("group", homes()), ("time", days())):
        columns, y = fingerprints(dependence)
        (model,) = fit_tabular(VALUE, columns, y, 0, threads=1, options=options).models
        epochs[name] = model.best_epoch_
    assert max(epochs["group"], epochs["time"]) < 0.5 * epochs["random"]


def test_rounds_of_boosting_are_chosen_on_other_groups_or_the_last_rows():
    y = fingerprints(None)[1]
    codes = homes().codes
    bag = boosted._splits(Problem(y), ROWS, False, 0, homes())
    assert len(bag) == 5
    assert all(not set(codes[kept]) & set(codes[held]) for kept, held in bag)
    ((kept, held),) = boosted._splits(Problem(y), ROWS, False, 0, days())
    assert kept.max() < held.min()
    assert len(held) == ROWS // 10
    labels = Problem((codes % 3 == 0).astype(int), 2)
    for kept, held in boosted._splits(labels, ROWS, False, 0, homes()):
        assert not set(codes[kept]) & set(codes[held])
    pytest.importorskip("lightgbm", reason="an optional extra of mlx-kaggle")
    rounds = {}
    for name, dependence in (("random", None), ("group", homes()), ("time", days())):
        columns, y = fingerprints(dependence)
        rounds[name] = np.mean(boosted.fit(VALUE, columns, y, 0, threads=1).rounds[0])
    assert max(rounds["group"], rounds["time"]) < 0.5 * rounds["random"]
