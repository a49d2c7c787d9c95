"""What the CSVs say, and the one line when they say nonsense."""

import numpy as np
import pytest

from mlx_kaggle import DataError
from mlx_kaggle.runs.folder import create_run, train_run
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.columns import check_columns
from mlx_kaggle.tables.files import read_tables
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.splits import check_overlap, row_hashes, split_rows
from mlx_kaggle.tables.submission import submission_columns
from mlx_kaggle.tables.submission_check import check_submission
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.tables.tasks import infer_task
from mlx_kaggle.training.job import prepare_job


def read(path: str, target: str, **settings):
    data = DataSettings(train=path, target=target, **settings)
    return infer_competition(data, read_tables(data))


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
    assert infer_task(cells) == task


def test_titanic_like_table_is_understood(passengers, write_csv):
    found = read(write_csv("train.csv", passengers(60)), "Survived")
    assert (found.task, found.metric, found.classes) == ("binary", "accuracy", ("0", "1"))
    assert found.id_column == "PassengerId"
    kinds = {column.name: column.kind for column in found.schema.columns}
    assert kinds["Age"] == kinds["Fare"] == "numeric"
    assert kinds["Survived"] == "target"


def test_a_copy_of_the_target_is_dropped(passengers, write_csv):
    table = passengers(60)
    table["Alive"] = ["yes" if each else "no" for each in table["Survived"]]
    table["Age again"] = table["Age"]
    found = read(write_csv("train.csv", table), "Survived")
    assert found.schema["Alive"].kind == "ignored"
    assert found.schema["Age again"].kind == "ignored"
    assert "column 'Alive' is dropped: it copies the target 'Survived'" in found.notes


@pytest.mark.parametrize("sign", [1, -1])
def test_two_columns_whose_sum_or_difference_is_the_target_are_noted(write_csv, sign):
    rng = np.random.default_rng(0)
    table = {name: rng.integers(100, 900, 60).tolist() for name in ("casual", "known", "rest")}
    count = [a + sign * b for a, b in zip(table["casual"], table["rest"], strict=True)]
    train = write_csv("train.csv", table | {"count": count})
    what = "sum" if sign == 1 else "difference"
    start = f"the {what} of 'casual' and 'rest' is the target 'count' in every row; if they are not"
    assert any(note.startswith(start) for note in read(train, "count").notes)
    write_csv("test.csv", table)  # there they are known when predicting
    assert not any("of 'casual'" in note for note in read(train, "count").notes)
    nearly = [*count[:-1], count[-1] + 1]
    found = read(write_csv("other.csv", table | {"count": nearly}), "count")
    assert not any("of 'casual'" in note for note in found.notes)


def test_a_metric_of_intervals_is_refused(passengers, write_csv):
    with pytest.raises(DataError, match=r"^metric 'coverage' scores intervals and cannot "):
        read(write_csv("train.csv", passengers(60)), "Fare", metric="coverage")


def test_another_separator_is_recognized(passengers, write_csv):
    found = read(write_csv("train.csv", passengers(40), separator=";"), "Survived")
    assert found.task == "binary"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Survived": ["1"] * 40}, "target 'Survived' is '1' in every row"),
        ({"Survived": ["1", ""] * 20}, "target 'Survived' is '1' in every row"),
        ({"Survived": [""] * 40}, "target 'Survived' is missing in all 40 rows"),
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
    with pytest.raises(DataError, match=r"leak: 20 of 20 rows of val.csv are also in train.csv"):
        check_overlap(train, train[:20], "val.csv", "train.csv", allow=False)
    note = check_overlap(train, train[:20], "val.csv", "train.csv", allow=True)
    assert note is not None
    assert note.startswith("LEAK allowed")
    fresh = row_hashes(passengers(60, seed=9), names)
    assert check_overlap(train, fresh, "val.csv", "train.csv", allow=False) is None


def test_natural_repeats_are_no_leak():
    train = np.array([1, 1, 2, 2, 3, 3, 4, 4] * 10, np.uint64)
    note = check_overlap(train, train[:4], "test.csv", "train.csv", False)
    assert "duplicates within train" in str(note)


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


def labelled(rows: int, **columns) -> dict[str, list]:
    """A numeric column, and what else is given."""
    return {"size": [row * 0.37 % 9 for row in range(rows)], **columns}


def test_rows_without_a_target_are_dropped_and_counted(write_csv):
    y = ["a", "b"] * 20
    y[15], y[30] = "", "NA"
    train = write_csv("train.csv", labelled(40, y=y))
    val = write_csv("val.csv", labelled(6, y=["a", "", "b", "a", "", "b"], size=list(range(6))))
    flags = {"data.train": train, "data.target": "y", "data.val": val, "data.allow_leak": True}
    job = prepare_job(resolve_config("quick", flags=flags))
    assert f"{train}: dropped 2 of 40 rows without a target (first: row 17)" in job.notes
    assert f"{val}: dropped 2 of 6 rows without a target (first: row 3)" in job.notes
    assert len(job.encoded) == len(job.table["y"]) == 38 + 4
    assert job.rows[[14, 15, 28, 29, 38, 39]].tolist() == [14, 16, 29, 31, 0, 2]
    assert job.table["y"][15] == "a"


def test_a_wrong_label_is_found_in_the_row_of_its_file(write_csv):
    train = write_csv("train.csv", labelled(40, y=["a", "b"] * 20))
    val = write_csv("val.csv", labelled(3, y=["", "a", "c"]))
    flags = {"data.train": train, "data.target": "y", "data.val": val, "data.allow_leak": True}
    with pytest.raises(DataError, match=r"val.csv, row 4: class 'c' of 'y' does not occur in the"):
        prepare_job(resolve_config("quick", flags=flags))


def test_classes_with_few_rows_train_and_the_single_row_never_validates(write_csv, tmp_path):
    y = ["a"] * 30 + ["b"] * 25 + ["rare"] * 3 + ["lonely"]
    flags = {"data.train": write_csv("train.csv", labelled(59, y=y)), "data.target": "y"}
    for folds in (0, 5):
        job = prepare_job(resolve_config("quick", flags={**flags, "folds": folds}))
        lonely = y.index("lonely")
        assert "class 'lonely' has 1 row: it is trained on and never validated" in job.notes
        for train, val in job.splits:
            assert lonely in train
            assert lonely not in val
            assert set(job.encoded[val]) <= set(job.encoded[train])
        settings = ["members=[linear]", "blend.generate=none"]
        config = resolve_config("quick", flags={**flags, "folds": folds}, overrides=settings)
        run = tmp_path / f"run-{folds}"
        results = train_run(config, lambda run=run, config=config: create_run(run, config, False))
        with np.load(run / "out_of_fold.npz") as arrays:
            members = {name: arrays[name] for name in arrays if name.startswith("member ")}
        assert set(members) == {f"member {name}" for name in
                                ("majority", "HistGradientBoosting", "linear")}  # fmt: skip
        for prediction in members.values():
            assert prediction.shape[1] == 4
            assert np.isfinite(prediction).all()
        for scores in results.scores.values():
            assert np.isfinite(list(scores.values())).all()
        area = Target(job.competition).score(
            job.encoded[job.scored_rows], members["member majority"], "roc_auc"
        )
        assert 0 <= area <= 1
    assert sorted(np.concatenate([val for _, val in job.splits])) == list(range(58))
    assert "class 'rare' has 3 rows, fewer than 5 folds: some folds do not validate it" in job.notes


@pytest.mark.parametrize(
    ("targets", "folds", "message"),
    [
        ([0, 1, 2], 2, "--folds 2, but the training file has 3 rows, 3 of them the only one of"),
        ([0, 0, 1], 3, "--folds 3, but the training file has 3 rows, 1 of them the only one of"),
        ([0, 1, 2], 0, "--folds none, but the training file has 3 rows, 3 of them the only one"),
    ],
)
def test_too_few_rows_to_validate_is_one_line(targets, folds, message):
    with pytest.raises(DataError) as caught:
        split_rows(np.array(targets), "multiclass", folds, 0.2, 0)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("folds", [0, 2, 3, 5])
@pytest.mark.parametrize("counts", [(9, 1, 1), (2, 2, 2), (20, 4, 1), (2, 3, 1), (1, 40)])
def test_every_split_trains_on_every_class_that_it_can(counts, folds):
    targets = np.repeat(np.arange(len(counts)), counts)
    if folds > sum(count for count in counts if count > 1):
        pytest.skip("more folds than rows that can validate")
    for train, val in split_rows(targets, "multiclass", folds, 0.5, 0):
        assert not set(train) & set(val)
        assert len(train) + len(val) == len(targets)
        assert set(np.flatnonzero(np.bincount(targets) == 1)) <= set(targets[train])
        assert not any(counts[label] == 1 for label in targets[val])


def test_numbers_that_could_be_classes_or_amounts_say_so(write_csv):
    quality = write_csv("wine.csv", labelled(120, quality=[3 + row % 7 for row in range(120)]))
    found = read(quality, "quality")
    assert (found.task, found.metric) == ("multiclass", "accuracy")
    assert found.notes == (
        "target 'quality' has the whole numbers 3 to 9, read as 7 unordered classes; if "
        "their order matters, add --task ordinal, which is scored with quadratic_kappa, or --task "
        "regression",
    )
    assert read(quality, "quality", metric="mae").task == "regression"
    assert read(quality, "quality", metric="quadratic_kappa").task == "ordinal"
    assert read(quality, "quality", metric="mae").notes == ()
    assert read(quality, "quality", task="regression").notes == ()
    ages = write_csv("ages.csv", labelled(120, age=[20 + row % 30 for row in range(120)]))
    found = read(ages, "age")
    assert found.task == "regression"
    assert found.notes == (
        "target 'age' has 30 distinct numbers, read as a regression; if they are codes of "
        "classes, add --task multiclass, or --task ordinal if their order matters",
    )
    assert read(ages, "age", metric="quadratic_kappa").task == "ordinal"


LABELS = {
    "joy": [int(row % 5 == 0) for row in range(40)],
    "fear": [int(row % 7 == 1) for row in range(40)],
    "anger": [int(row % 3 == 2) for row in range(40)],
}


def test_likely_label_columns_are_warned_about(write_csv):
    train = write_csv("train.csv", labelled(40, **LABELS))
    (note,) = read(train, "joy").notes
    assert note == (
        "2 columns next to 'joy' also have 0 and 1 (fear, anger): if they are labels too, they are "
        "unknown when predicting and the score is too good; drop them: --set "
        '\'data.drop=["fear", "anger"]\''
    )
    assert read(train, "joy", drop=("fear", "anger")).notes == ()
    # A labelled test file proves nothing.
    write_csv("test.csv", labelled(5, **{name: cells[:5] for name, cells in LABELS.items()}))
    assert "2 columns next to 'joy'" in read(train, "joy").notes[0]


def test_one_hot_features_beside_the_target_are_none(write_csv):
    kinds = {f"kind_{n}": [int(row % 3 == n) for row in range(40)] for n in range(3)}
    train = write_csv(
        "train.csv", labelled(40, **kinds, y=[int(row % 5 == 0) for row in range(40)])
    )
    assert not [note for note in read(train, "y").notes if "labels" in note]


def test_columns_unknown_when_predicting_are_dropped(write_csv):
    train = write_csv("train.csv", {"id": range(40), **labelled(40, **LABELS)})
    test = write_csv("test.csv", {"id": range(40, 45), **labelled(5)})
    found = read(train, "joy")
    assert [column.name for column in found.schema.features] == ["size"]
    assert (
        f"2 columns are dropped (fear, anger): not in {test}, so not known when predicting"
        in found.notes
    )
    write_csv("test.csv", {"id": range(40, 45), **labelled(5), "fear": [0, 1, 0, 1, 0]})
    found = read(train, "joy")
    assert [column.name for column in found.schema.features] == ["size", "fear"]
    assert f"column 'anger' is dropped: not in {test}, so not known when predicting" in found.notes
    write_csv("test.csv", {"id": range(40, 45), "other": range(5)})
    with pytest.raises(DataError, match=r"test.csv: has none of the columns to learn from \(size,"):
        read(train, "joy")


def test_a_sample_of_another_target_is_not_used(write_csv):
    train = write_csv("train.csv", {"id": range(40), **labelled(40, **LABELS)})
    sample = write_csv("sample_submission.csv", {"id": range(40, 45), "fear": [0] * 5})
    found = read(train, "joy")
    assert found.submission is None
    assert f"{sample} is not used: its columns are other columns of {train}" in found.notes
