"""What the CSVs say, and the one line when they say nonsense."""

import numpy as np
import pytest

from mlx_kaggle.checks import check_columns, check_overlap, row_hashes
from mlx_kaggle.competition import infer_task, read_tables, understand
from mlx_kaggle.config import DataSettings
from mlx_kaggle.errors import DataError
from mlx_kaggle.folds import split_rows
from mlx_kaggle.submission import check_submission, submission_columns


def read(path: str, target: str, **settings):
    data = DataSettings(train=path, target=target, **settings)
    return understand(data, read_tables(data))


@pytest.mark.parametrize(
    ("cells", "task"),
    [
        (["0", "1"] * 20, "binary"),
        (["yes", "no"] * 20, "binary"),
        (["a", "b", "c"] * 10, "multiclass"),
        (["1", "2", "3", "4", "5"] * 12, "multiclass"),
        ([str(n) for n in range(40)], "regression"),
        (["0.5", "1.25", "3.5", "7.25"] * 20, "regression"),
    ],
)
def test_the_task_follows_from_the_target(cells, task):
    assert infer_task(cells, DataSettings()) == task


def test_titanic_like_table_is_understood(passengers, write_csv):
    found = read(write_csv("train.csv", passengers(60)), "Survived")
    assert (found.task, found.metric, found.classes) == ("binary", "accuracy", ("0", "1"))
    assert found.id_column == "PassengerId"
    kinds = {column.name: column.kind for column in found.schema.columns}
    assert kinds["Age"] == kinds["Fare"] == "numeric"
    assert kinds["Survived"] == "target"


def test_a_copy_of_the_target_is_left_out(passengers, write_csv):
    table = passengers(60)
    table["Alive"] = ["yes" if each else "no" for each in table["Survived"]]
    table["Age again"] = table["Age"]
    found = read(write_csv("train.csv", table), "Survived")
    assert found.schema["Alive"].kind == "ignored"
    assert found.schema["Age again"].kind == "ignored"
    assert "column 'Alive' is left out: it says the target 'Survived' again" in found.notes


def test_another_separator_is_recognized(passengers, write_csv):
    found = read(write_csv("train.csv", passengers(40), separator=";"), "Survived")
    assert found.task == "binary"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Survived": ["1"] * 40}, "target 'Survived' is '1' in every row"),
        ({"Survived": ["1", ""] * 20}, "target 'Survived' is missing in 20 rows (first: row 3)"),
        ({"Survived": ["a"] * 39 + ["b"]}, "class 'b' of 'Survived' has a single row"),
    ],
)
def test_a_hopeless_target_gets_one_line(change, message, passengers, write_csv):
    with pytest.raises(DataError) as caught:
        read(write_csv("train.csv", {**passengers(40), **change}), "Survived")
    assert message in str(caught.value)


def test_validation_rows_in_train_are_refused(passengers):
    table = passengers(60)
    names = ["Pclass", "Sex", "Age", "Fare"]
    train = row_hashes(table, names)
    with pytest.raises(DataError, match=r"leak: 20 of 20 rows of val.csv stand in train.csv too"):
        check_overlap(train, train[:20], "val.csv", "train.csv", allow=False)
    note = check_overlap(train, train[:20], "val.csv", "train.csv", allow=True)
    assert note is not None
    assert note.startswith("LEAK allowed")
    fresh = row_hashes(passengers(60, seed=9), names)
    assert check_overlap(train, fresh, "val.csv", "train.csv", allow=False) is None


def test_natural_repeats_are_no_leak():
    train = np.array([1, 1, 2, 2, 3, 3, 4, 4] * 10, np.uint64)
    assert "train repeats" in str(check_overlap(train, train[:4], "test.csv", "train.csv", False))


def test_a_missing_column_is_named(passengers, write_csv):
    found = read(write_csv("train.csv", passengers(40)), "Survived")
    test = {name: cells for name, cells in passengers(5).items() if name not in ("Age", "Sex")}
    with pytest.raises(DataError, match=r"test.csv: column 'Sex' is missing \(and 1 more: Age\)"):
        check_columns(found, test, "test.csv")


def test_folds_keep_class_shares_and_cover_every_row_once():
    targets = np.array([0] * 40 + [1] * 10)
    splits = split_rows(targets, "binary", 5, 0.2, seed=0)
    assert sorted(np.concatenate([val for _, val in splits])) == list(range(50))
    assert all(targets[val].sum() == 2 for _, val in splits)
    assert all(not set(train) & set(val) for train, val in splits)


def test_folds_of_a_regression_keep_its_range():
    targets = np.exp(np.random.default_rng(0).normal(size=300))
    for _, val in split_rows(targets, "regression", 5, 0.2, seed=0):
        assert abs(np.median(targets[val]) - np.median(targets)) < 0.15


def test_a_submission_follows_the_sample(passengers, write_csv):
    sample_file = write_csv("sample_submission.csv", {"PassengerId": [1, 2], "Survived": [0, 0]})
    found = read(write_csv("train.csv", passengers(40)), "Survived")
    columns = submission_columns(found, ["1", "2"], np.array([[0.2, 0.8], [0.9, 0.1]]), False)
    assert columns == {"PassengerId": ["1", "2"], "Survived": ["1", "0"]}
    sample = {"PassengerId": ["1", "2"], "Survived": ["0", "0"]}
    assert "2 ids" in check_submission(columns, sample, "submission.csv", sample_file)
    probabilities = submission_columns(found, ["1"], np.array([[0.2, 0.8]]), probabilities=True)
    assert probabilities == {"PassengerId": ["1"], "Survived": [0.8]}
    for wrong, message in (
        ({"PassengerId": ["1", "2"]}, "columns are PassengerId; sample.csv has PassengerId, Sur"),
        ({"PassengerId": ["1"], "Survived": ["0"]}, "1 rows; sample.csv has 2"),
        ({"PassengerId": ["1", "3"], "Survived": ["0", "0"]}, "id '3' is not in sample.csv"),
        ({"PassengerId": ["1", "2"], "Survived": ["0", "nan"]}, "row 3: Survived is 'nan', not a"),
    ):
        with pytest.raises(DataError) as caught:
            check_submission(wrong, sample, "submission.csv", "sample.csv")
        assert message in str(caught.value)
