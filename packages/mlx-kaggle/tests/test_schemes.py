"""Folds by group, time or file; what the data propose."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.settings.sections import CvSettings
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.schemes import divide, groups_of, propose
from mlx_kaggle.tables.splits import split_rows
from mlx_kaggle.training.job import prepare_job
from mlx_tabtext import Schema, infer_schema
from mlx_trainer import ConfigError

BINARY = Competition(Schema(()), ("y",), "binary", "accuracy", ("a", "b"), None)
VALUE = Competition(Schema(()), ("y",), "regression", "rmse", (), None)


def splits_of(cv, table, encoded, competition=BINARY, folds=3, seed=0):
    rows = np.arange(len(encoded))
    how = rows, len(rows), "train.csv", folds, 0.25, seed
    splits, _, notes = divide(cv, competition, table, encoded, *how)
    return splits, notes


@given(st.integers(0, 999), st.integers(24, 90), st.sampled_from([0, 2, 3]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_group_is_on_one_side_of_every_split(seed, rows, folds, numbers):
    rng = np.random.default_rng(seed)
    table = {"home": [f"{each}_x" for each in rng.integers(rows // 3, size=rows)]}
    encoded = rng.normal(size=rows) if numbers else rng.integers(2, size=rows)
    cv = CvSettings("group", group="home[0]")
    splits, notes = splits_of(cv, table, encoded, VALUE if numbers else BINARY, folds, seed)
    groups = groups_of(table, "home[0]", "")
    for train, held in splits:
        assert not set(groups[train]) & set(groups[held])
        assert sorted([*train, *held]) == list(range(rows))
    if folds:
        assert sorted(np.concatenate([held for _, held in splits])) == list(range(rows))
    assert len(splits) == max(folds, 1)
    assert f"keep the {len(set(groups))} groups of home[0] together, of {rows} rows" in notes[0]


@given(st.integers(0, 999), st.integers(20, 60), st.sampled_from([0, 2, 3]))
@settings(max_examples=40, deadline=None)
def test_a_fold_of_times_is_later_than_its_training_rows(seed, rows, folds):
    day = np.random.default_rng(seed).integers(1, 29, rows)
    table = {"day": [f"2024-03-{each:02}" for each in day]}
    splits, notes = splits_of(CvSettings("time", time="day"), table, day % 2, folds=folds)
    held = np.concatenate([each for _, each in splits])
    assert len(set(held)) == len(held)
    assert all(day[train].max() < day[val].min() for train, val in splits)
    assert f"{rows - len(held)} of {rows} rows, the first ones, are never validated" in notes[0]


def test_auto_and_stratified_are_the_splits_of_before():
    encoded = np.random.default_rng(0).integers(2, size=60)
    before = split_rows(encoded, "binary", 3, 0.25, 7)
    for scheme in ("auto", "stratified"):
        found, notes = splits_of(CvSettings(scheme), {}, encoded, seed=7)
        assert notes == []
        for pair, other in zip(before, found, strict=True):
            np.testing.assert_array_equal(pair[0], other[0])
            np.testing.assert_array_equal(pair[1], other[1])
    # The indices of version 0.1: a change would make old runs and ensembles incomparable.
    assert before[0][1].tolist() == FIRST_FOLD


FIRST_FOLD = [0, 2, 5, 9, 11, 17, 18, 24, 28, 33, 34, 40, 43, 44, 45, 50, 52, 55, 56, 59]


def test_a_file_gives_the_folds_by_id_or_by_row(tmp_path):
    file = tmp_path / "folds.csv"
    table, encoded = {"id": list("dcba"), "x": [1, 2, 3, 4]}, np.array([0, 1, 0, 1])
    by_id = Competition(Schema(()), ("y",), "binary", "accuracy", ("a", "b"), "id")
    file.write_text("id,fold\na,0\nb,1\nc,0\nd,-1\n")
    splits, notes = splits_of(CvSettings(str(file)), table, encoded, by_id, folds=2)
    assert [held.tolist() for _, held in splits] == [[1, 3], [2]]
    assert [train.tolist() for train, _ in splits] == [[0, 2], [0, 1, 3]]
    assert "1 rows of fold -1 are only trained on" in notes[0]
    file.write_text("fold\n0\n1\n0\n-1\n")
    splits, _ = splits_of(CvSettings(str(file)), table, encoded, folds=2)
    assert [held.tolist() for _, held in splits] == [[0, 2], [1]]


def passenger_table(rows=240, shared=0):
    """A table whose target follows the group in the first part of the id."""
    rng = np.random.default_rng(3)
    group = np.arange(rows) // 3
    y = rng.integers(2, size=rows // 3)[group]
    table = {"Id": [f"{each:04}_{row % 3}" for row, each in enumerate(group)],
             "size": rng.normal(size=rows).round(2).tolist(),
             "y": [str(each) for each in y]}  # fmt: skip
    schema = infer_schema(table, target="y", id_column="Id")
    test = {"Id": [f"{each:04}_9" for each in range(rows // 3 - shared, rows)], "size": [0.0]}
    test["size"] *= len(test["Id"])
    return Competition(schema, ("y",), "binary", "accuracy", ("0", "1"), "Id"), table, y, test


def test_groups_of_the_id_are_proposed_unless_new_rows_share_them():
    competition, table, y, test = passenger_table()
    (note,) = propose(competition, table, y, test, 0)
    assert "rows with the same Id[0] (80 groups of 240 rows) share the target" in note
    assert "--cv group --group 'Id[0]'" in note
    assert "the test table has other groups" in note
    assert "if new rows are of other groups" in propose(competition, table, y, None, 0)[0]
    shared = passenger_table(shared=60)[3]
    assert propose(competition, table, y, shared, 0) == []


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_noise_proposes_nothing(seed):
    competition, table, y, test = passenger_table(120)
    noise = np.random.default_rng(seed).permutation(y)
    assert propose(competition, table, noise, test, 0) == []
    rare = np.random.default_rng(seed).permutation(np.arange(120) < seed % 9)
    assert propose(competition, table, rare.astype(int), test, 0) == []


def test_a_later_test_table_proposes_time():
    table = {"day": [f"2024-01-{1 + row % 28:02}" for row in range(56)], "y": ["0", "1"] * 28}
    schema = infer_schema(table, target="y")
    competition = Competition(schema, ("y",), "binary", "accuracy", ("0", "1"), None)
    later = {"day": [f"2024-02-{day:02}" for day in range(1, 20)]}
    (note,) = propose(competition, table, np.arange(56) % 2, later, 0)
    assert "--cv time --cv-time day" in note
    assert propose(competition, table, np.arange(56) % 2, table, 0) == []


def test_what_groups_leak_is_seen_only_without_groups(write_csv, run_cli):
    rng = np.random.default_rng(0)
    group = np.arange(240) // 10
    # Each group has a code of its own, which says nothing about another group.
    code, y = rng.normal(size=24)[group], rng.permutation([0, 1] * 12)[group]
    table = {"Id": [f"{each}_{row}" for row, each in enumerate(group)], "code": code.tolist(),
             "size": rng.normal(size=240).round(2).tolist(), "y": y.tolist()}  # fmt: skip
    common = ("train", "--train", write_csv("train.csv", table), "--target", "y", "--folds", "3",
              "--members", "forest", "--set", "blend.generate=none", "--json")  # fmt: skip
    scores = []
    for number, flags in enumerate([(), ("--cv", "group", "--group", "Id[0]")]):
        done = run_cli(*common, *flags, "--output", f"run{number}")
        scores.append(json.loads(done.stdout)["members"]["forest"]["score"])
    assert scores[0] > 0.8
    assert scores[1] < 0.7
    assert len(np.load("run1/out_of_fold.npz")["rows"]) == 240


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cv", "groups"), "unknown name 'groups'; did you mean 'group'?"),
        (("--cv", "group"), "group needs --group COLUMN"),
        (("--group", "Id"), "cv.group: is given, but the scheme is auto; add --cv group"),
        (("--cv", "time"), "time needs --cv-time COLUMN"),
        (("--cv", "time", "--cv-time", "day", "--val", "TRAIN"), "but --val is given"),
    ],
)
def test_wrong_flags_are_usage_errors(flags, message, write_csv, passengers, run_cli):
    train = write_csv("train.csv", passengers(40))
    flags = [train if each == "TRAIN" else each for each in flags]
    done = run_cli("train", "--train", train, "--target", "Survived", *flags, "--output", "run",
                   code=2)  # fmt: skip
    assert message in done.stderr


@pytest.mark.parametrize(
    ("flags", "text", "message"),
    [
        (
            ("--cv", "group", "--group", "Sexe"),
            "",
            "--group: no column 'Sexe'; did you mean 'Sex'?",
        ),
        (("--cv", "group", "--group", "Sex"), "", "Sex has 2 groups, fewer than 3 folds"),
        (("--cv", "time", "--cv-time", "Sex"), "", "row 2: Sex is"),
        (("--cv", "regression-bins"), "", "is for numbers, but the task is binary"),
        (("--cv", "f.csv"), "PassengerID,fold\n1,0\n2,1\n", "no column 'PassengerId', but"),
        (("--cv", "f.csv"), "id,part\n1,2\n", "f.csv: needs a column fold, has id, part"),
        (("--cv", "f.csv"), "fold\n0\n1\n", "f.csv: has 2 folds, but"),
        (("--cv", "f.csv"), "fold\n0\nx\n", "f.csv, row 3: fold is 'x', must be a number"),
        (("--cv", "f.csv"), "fold\n" + "0\n1\n" * 20, "f.csv: has 2 folds; add --folds 2"),
    ],
)
def test_a_scheme_that_does_not_fit_is_one_line(
    flags, text, message, write_csv, passengers, run_cli, tmp_path
):
    (tmp_path / "f.csv").write_text(text)
    train = write_csv("train.csv", passengers(40))
    done = run_cli("train", "--train", train, "--target", "Survived", *flags, "--folds", "3",
                   "--output", "run", code=1)  # fmt: skip
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_changed_file_of_folds_is_no_resume(write_csv, passengers, run_cli, tmp_path):
    folds = tmp_path / "folds.csv"
    folds.write_text("fold\n" + "0\n1\n" * 20)
    flags = {"data.train": write_csv("train.csv", passengers(40)), "data.target": "Survived"}
    config = resolve_config("quick", flags={**flags, "cv.scheme": str(folds), "folds": 2})
    assert [len(held) for _, held in prepare_job(config).splits] == [20, 20]
    run_cli("train", "--train", flags["data.train"], "--target", "Survived", "--folds", "2",
            "--cv", folds, "--members", "linear", "--output", "run")  # fmt: skip
    folds.write_text("fold\n" + "1\n0\n" * 20)
    done = run_cli("train", "--resume", "--output", "run", code=1)
    assert "(cv.scheme) was changed since the run" in done.stderr


def test_the_scheme_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="group divides the training table, but the task"):
        resolve_config("quick", flags={"cv.scheme": "group", "cv.group": "a",
                                       "data.task": "forecast"})  # fmt: skip
