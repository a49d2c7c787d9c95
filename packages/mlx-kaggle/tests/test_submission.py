"""The sample submission decides what is written, and is understood before training."""

import json

import numpy as np
import pytest

from mlx_kaggle import DataError
from mlx_kaggle.config import DataSettings
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.files import read_tables
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.spelling import find_spelling
from mlx_kaggle.tables.submission import (
    known_format,
    place_rows,
    read_format,
    submission_columns,
)
from mlx_tabtext import Schema

THREE = ("C", "CL", "D")


def asked(task="binary", metric="accuracy", classes=("0", "1"), target="y"):
    """The competition of a target whose submissions have the column Id."""
    return Competition(Schema(()), (target,), task, metric, classes, "Id")


def sample(**columns):
    rows = len(next(iter(columns.values())))
    return {"Id": [str(row) for row in range(rows)], **columns}


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["C", "CL", "D"], THREE),
        (["D", "C", "CL"], ("D", "C", "CL")),
        (["Status_C", "Status_CL", "Status_D"], THREE),
        (["C_prob", "D_prob", "CL_prob"], ("C", "D", "CL")),
        (["p(C)", "p(CL)", "p(D)"], THREE),
        (["prob_c", "prob_cl", "prob_d"], THREE),
    ],
)
def test_one_probability_column_a_class_by_name(names, classes):
    found = read_format(
        sample(**{name: ["0.3"] for name in names}),
        "s.csv",
        asked("multiclass", classes=THREE),
        None,
    )
    assert (found.content, found.predictions, found.classes) == ("classes", names, classes)


def test_numbered_columns_are_the_classes_of_these_numbers():
    names = [f"Class_{n}" for n in (2, 0, 1)]
    for classes in (("0", "1", "2"), ("0.0", "1.0", "2.0")):
        columns = sample(**{name: ["0.3"] for name in names})
        found = read_format(columns, "s.csv", asked("multiclass", classes=classes), None)
        assert found.classes == (classes[2], classes[0], classes[1])


@pytest.mark.parametrize(
    ("names", "task", "classes", "message"),
    [
        (
            ["Class_1", "Class_2", "Class_3"],
            "multiclass",
            ("0", "1", "2"),
            "s.csv: its columns besides the ids (Id) are neither one prediction nor one column per "
            "class: Class_1, Class_2, Class_3; the 3 classes of 'y': 0, 1, 2",
        ),
        (
            ["a", "b"],
            "multiclass",
            ("a", "b", "c"),
            "s.csv: its columns besides the ids (Id) are neither one prediction nor one column per "
            "class: a, b; the 3 classes of 'y': a, b, c",
        ),
        (
            ["y", "z"],
            "regression",
            (),
            "s.csv: one number is predicted, 'y', but besides the ids (Id) it has 2 columns: y, z",
        ),
        (
            ["y"],
            "binary",
            ("<=50K", ">50K"),
            "s.csv: column 'y' contains 0, which is not a class of 'y' (<=50K, >50K)",
        ),
    ],
)
def test_a_sample_that_fits_nothing_is_one_line(names, task, classes, message):
    metric = "rmse" if task == "regression" else "accuracy"
    columns = sample(**{name: ["0"] for name in names})
    with pytest.raises(DataError) as caught:
        read_format(columns, "s.csv", asked(task, metric, classes), None)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("cells", "metric", "classes", "content"),
    [
        (["0", "0"], "accuracy", ("0", "1"), "label"),
        (["0", "0"], "roc_auc", ("0", "1"), "probability"),
        (["0.5", "0.5"], "accuracy", ("0", "1"), "probability"),
        (["0.5", "0.5"], "roc_auc", ("no", "yes"), "probability"),
        (["0.5", "0"], "accuracy", ("<=50K", ">50K"), "probability"),
        (["0", "1"], "log_loss", ("<=50K", ">50K"), "probability"),
        (["False", "False"], "accuracy", ("False", "True"), "label"),
        (["", ""], "accuracy", ("0", "1"), "label"),
        (["", ""], "roc_auc", ("0", "1"), "probability"),
    ],
)
def test_cells_and_metric_tell_a_label_from_a_probability(cells, metric, classes, content):
    found = read_format(sample(y=cells), "s.csv", asked("binary", metric, classes), None)
    assert found.content == content


@pytest.mark.parametrize(
    ("classes", "cells", "written"),
    [
        (("0", "1"), {"0"}, ["0", "1"]),
        (("0.0", "1.0"), {"0"}, ["0", "1"]),
        (("0", "1"), {"0.0"}, ["0.0", "1.0"]),
        (("False", "True"), {"FALSE"}, ["FALSE", "TRUE"]),
        (("FALSE", "TRUE"), {"False", "True"}, ["False", "True"]),
        (("False", "True"), {"false"}, ["false", "true"]),
        (("False", "True"), {"0"}, ["0", "1"]),
        (("0", "1"), {"True"}, ["False", "True"]),
        (("no", "yes"), {"No"}, ["No", "Yes"]),
        (("no", "yes"), {"1"}, ["0", "1"]),
        (("N", "Y"), {"no"}, ["no", "yes"]),
        (("dead", "alive"), {"Dead"}, ["Dead", "Alive"]),
        (("0", "1"), set(), ["0", "1"]),
        (("1", "2"), {"0"}, None),
        (("a", "A"), {"b"}, None),
    ],
)
def test_labels_are_written_as_the_sample_writes_them(classes, cells, written):
    found = find_spelling(cells, classes)
    assert (found and [found[label] for label in classes]) == written


def test_ids_and_order_are_those_of_the_sample():
    columns = {"Id": ["3", "1", "2"], "y": ["0"] * 3}
    test = {"size": ["x", "y", "z", "w"], "Id": ["1", "2", "3", "9"]}
    form = read_format(columns, "s.csv", asked(), test)
    ids, rows, notes = place_rows(form, columns, "s.csv", test, "test.csv")
    assert ids == {"Id": ["3", "1", "2"]}
    assert rows.tolist() == [2, 0, 1]
    assert notes == ["1 of 4 rows of test.csv are not in s.csv and not written (first: '9')"]


def test_an_id_of_another_name_is_found_by_its_cells():
    columns = {"ImageId": ["b", "a"], "y": ["0"] * 2}
    test = {"size": ["1", "2"], "file": ["a", "b"]}
    form = read_format(columns, "s.csv", asked(), test)
    ids, rows, _ = place_rows(form, columns, "s.csv", test, "test.csv")
    assert (ids, rows.tolist()) == ({"ImageId": ["b", "a"]}, [1, 0])
    with pytest.raises(DataError) as caught:
        place_rows(form, columns, "s.csv", {"file": ["a", "c"]}, "test.csv")
    assert str(caught.value) == (
        "s.csv: its ids, column 'ImageId' (first: 'b'), are in no column of test.csv (file)"
    )


def test_several_id_columns_count_together():
    columns = {"Store": ["1", "1", "2"], "Week": ["7", "8", "7"], "Sales": ["0"] * 3}
    test = {"Week": ["7", "7", "8"], "Store": ["2", "1", "1"], "Size": ["5"] * 3}
    form = read_format(columns, "s.csv", asked("regression", "rmse", (), "Sales"), test)
    assert (form.ids, form.predictions) == (("Store", "Week"), ["Sales"])
    _, rows, _ = place_rows(form, columns, "s.csv", test, "test.csv")
    assert rows.tolist() == [1, 2, 0]
    columns["Week"][0] = "9"
    with pytest.raises(DataError) as caught:
        place_rows(form, columns, "s.csv", test, "test.csv")
    assert str(caught.value) == (
        "s.csv: 1 of its 3 ids are not in test.csv (first: row 2, '1, 9'); give two files that "
        "belong together"
    )


def test_a_sample_without_ids_has_the_rows_of_the_test_table():
    form = read_format({"y": ["0", "0"]}, "s.csv", asked(), {"size": ["1", "2"]})
    assert (form.ids, form.predictions) == ((), ["y"])
    _, rows, _ = place_rows(form, {"y": ["0"] * 2}, "s.csv", {"size": ["1", "2"]}, "test.csv")
    assert rows.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"test.csv: 3 rows, but s.csv has no ids and 2 rows"):
        place_rows(form, {"y": ["0"] * 2}, "s.csv", {"size": ["1"] * 3}, "test.csv")


@pytest.fixture
def three_classes(write_csv):
    rows = {"Id": range(30), "size": [row % 7 for row in range(30)], "y": [0, 1, 2] * 10}
    train = write_csv("train.csv", rows)
    write_csv("test.csv", {"Id": [30, 31], "size": [1, 2]})
    write_csv(
        "sample_submission.csv", {"Id": [31, 30], **{f"Class_{n}": [0.3] * 2 for n in (2, 0, 1)}}
    )
    data = DataSettings(train=train, target="y")
    return infer_competition(data, read_tables(data))


def test_a_competition_keeps_its_format(three_classes):
    values = json.loads(json.dumps(three_classes.to_dict()))
    assert Competition.from_dict(values) == three_classes
    prediction = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    expected = {
        "Id": ["31", "30"],
        "Class_2": [0.7, 0.2],
        "Class_0": [0.1, 0.5],
        "Class_1": [0.2, 0.3],
    }
    assert submission_columns(three_classes, ["31", "30"], prediction, False) == expected


def test_without_a_sample_the_metric_decides(three_classes):
    from dataclasses import replace

    plain = replace(three_classes, submission=None, submission_columns=())
    assert known_format(plain).content == "label"
    scored = replace(plain, metric="log_loss")
    assert known_format(scored).columns == ("Id", "0", "1", "2")
    assert scored.classes == ("0", "1", "2")
