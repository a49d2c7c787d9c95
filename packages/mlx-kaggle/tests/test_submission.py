"""The sample submission decides what is written, and is understood before training."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mlx_kaggle import DataError
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.competition import Competition, Format
from mlx_kaggle.tables.files import read_tables
from mlx_kaggle.tables.formats import known_format, probability_format, read_format
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.spelling import find_spelling
from mlx_kaggle.tables.submission import place_rows, submission_columns
from mlx_kaggle.tables.submission_check import check_submission
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
            "s.csv: one number is predicted, 'y', but besides the ids (Id) it has 2 columns: y, z; "
            "to predict all of them, name them all as --target",
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


LABELS = ("toxic", "insult", "threat")


def several(task="multilabel", metric="f1_macro", targets=LABELS, classes=None):
    """The competition of several targets whose submissions have the column Id."""
    classes = targets if classes is None else classes
    return Competition(Schema(()), targets, task, metric, classes, "Id")


@pytest.mark.parametrize(
    ("cells", "metric", "content"),
    [
        ("0", "f1_macro", "label"),
        ("0", "roc_auc", "probability"),
        ("0.5", "f1_macro", "probability"),
        ("", "f1_macro", "label"),
        ("", "log_loss", "probability"),
        ("False", "f1_macro", "label"),
        ("no", "roc_auc", "label"),
    ],
)
def test_cells_and_metric_tell_labels_from_their_probabilities(cells, metric, content):
    columns = sample(**{name: [cells] * 2 for name in ("threat", "toxic", "insult")})
    found = read_format(columns, "s.csv", several(metric=metric), None)
    assert (found.content, found.ids) == (content, ("Id",))
    assert found.targets == ("threat", "toxic", "insult")


def test_columns_of_a_sample_are_targets_by_name_in_any_order():
    columns = sample(**{f"pred_{name}": ["0"] for name in reversed(LABELS)})
    assert read_format(columns, "s.csv", several(), None).targets == LABELS[::-1]
    scores = several("regression", "mcrmse", ("cohesion", "syntax"), ())
    found = read_format(sample(syntax=["3"], cohesion=["3"]), "s.csv", scores, None)
    assert (found.content, found.targets) == ("value", ("syntax", "cohesion"))
    with pytest.raises(DataError) as caught:
        read_format(sample(toxic=["0"], threat=["0"], obscene=["0"]), "s.csv", several(), None)
    assert str(caught.value) == (
        "s.csv: needs one column for each of the 3 targets besides the ids (Id), but obscene is no "
        "target and insult has no column; name its columns as --target a,b,..."
    )
    with pytest.raises(DataError) as caught:
        read_format(
            sample(toxic=["0", "0"], insult=["1", "2"], threat=["", "0"]), "s.csv", several(), None
        )
    assert str(caught.value) == (
        "s.csv, row 3: insult is '2', not a label of 0 or 1 (or false and true, no and yes), nor a "
        "probability"
    )


def test_labels_are_written_in_the_columns_and_words_of_the_sample():
    columns = sample(threat=["no"] * 2, insult=["no"] * 2, toxic=["no"] * 2)
    form = read_format(columns, "s.csv", several(), None)
    prediction = np.array([[0.9, 0.4, 0.1], [0.2, 0.6, 0.3]])
    written = submission_columns(several(), ["a", "b"], prediction, False, form)
    assert written == {
        "Id": ["a", "b"],
        "threat": ["no", "no"],
        "insult": ["no", "yes"],
        "toxic": ["yes", "no"],
    }
    # Fitted thresholds decide otherwise than 0.5.
    codes = np.array([[1, 1, 0], [0, 1, 1]])
    written = submission_columns(several(), ["a", "b"], prediction, False, form, codes)
    assert (written["toxic"], written["threat"]) == (["yes", "no"], ["no", "yes"])
    assert written["insult"] == ["yes", "yes"]
    chances = probability_format(form, several())
    written = submission_columns(several(), ["a", "b"], prediction, True, chances)
    assert (list(written), written["toxic"]) == (list(form.columns), [0.9, 0.2])
    ids = {"Id": ["1", "0"], "threat": ["no"] * 2, "insult": ["no"] * 2, "toxic": ["no"] * 2}
    assert "2 ids and values agree" in check_submission(ids, columns, "out.csv", "s.csv", ("Id",))
    wrong = {**ids, "insult": ["no", ""]}
    with pytest.raises(DataError, match=r"out.csv, row 3: insult is '', not one of no, yes"):
        check_submission(wrong, columns, "out.csv", "s.csv", ("Id",))


def test_values_of_several_targets_are_written_without_their_intervals():
    scores = several("regression", "mcrmse", ("cohesion", "syntax"), ())
    form = read_format(sample(syntax=["3"], cohesion=["3"]), "s.csv", scores, None)
    prediction = np.array([[[2.5, 2.0, 3.0], [4.5, 4.0, 5.0]]])
    expected = {"Id": ["a"], "syntax": [4.5], "cohesion": [2.5]}
    assert submission_columns(scores, ["a"], prediction, False, form) == expected
    assert submission_columns(scores, ["a"], prediction[..., 0], False, form) == expected
    one = asked("regression", "rmse", ())
    written = submission_columns(one, ["a"], prediction[:, :1], False)
    assert written == {"Id": ["a"], "y": [2.5]}


def test_without_a_sample_each_target_has_a_column():
    assert known_format(several()).columns == ("Id", *LABELS)
    assert known_format(several()).content == "label"
    assert known_format(several(), probabilities=True).content == "probability"
    assert known_format(several(metric="roc_auc")).content == "probability"
    scores = several("regression", "mcrmse", ("cohesion", "syntax"), ())
    assert (known_format(scores).content, known_format(scores).targets) == (
        "value",
        ("cohesion", "syntax"),
    )
    form = known_format(several())
    assert Format.from_dict(json.loads(json.dumps(asdict(form)))) == form


def test_ordered_classes_are_one_label_or_one_probability_a_class():
    wine = asked("ordinal", "quadratic_kappa", ("3", "4", "5"))
    prediction = np.array([[0.5, 0.0, 0.5], [0.0, 0.2, 0.8]])
    form = read_format(sample(y=["5", "5"]), "s.csv", wine, None)
    assert form.content == "label"
    # The class nearest to the expected one, for a metric of distances.
    assert submission_columns(wine, ["a", "b"], prediction, False, form)["y"] == ["4", "5"]
    codes = np.array([2, 0])
    assert submission_columns(wine, ["a", "b"], prediction, False, form, codes)["y"] == ["5", "3"]
    values = np.array([0.2, 1.6])
    assert submission_columns(wine, ["a", "b"], values, False, form)["y"] == ["3", "5"]
    names = {f"q_{label}": ["0.3"] * 2 for label in ("5", "4", "3")}
    form = read_format(sample(**names), "s.csv", wine, None)
    written = submission_columns(wine, ["a", "b"], prediction, False, form)
    assert (written["q_3"], written["q_4"]) == ([0.5, 0.0], [0.0, 0.2])
    with pytest.raises(DataError) as caught:
        submission_columns(wine, ["a", "b"], values, False, form)
    assert str(caught.value) == (
        "'y' is predicted as a number, without probabilities of classes; give a sample submission "
        "of labels, or train with another --loss"
    )


def test_without_a_sample_the_metric_decides(three_classes):
    from dataclasses import replace

    plain = replace(three_classes, submission=None, submission_columns=())
    assert known_format(plain).content == "label"
    scored = replace(plain, metric="log_loss")
    assert known_format(scored).columns == ("Id", "0", "1", "2")
    assert scored.classes == ("0", "1", "2")
