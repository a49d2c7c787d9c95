"""Which columns are predicted: named, in ranges, or found in the sample submission or the table."""

import numpy as np
import pytest

from mlx_kaggle import DataError
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.files import drop_unlabelled, read_tables
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.target_columns import name_columns
from mlx_kaggle.tables.targets import Target

ROWS = 60
LABELS = {
    "joy": [int(row % 5 == 0) for row in range(ROWS)],
    "fear": [int(row % 7 == 1) for row in range(ROWS)],
    "anger": [int(row % 3 == 2) for row in range(ROWS)],
}
SCORES = {
    "cohesion": [1 + row % 9 * 0.5 for row in range(ROWS)],
    "syntax": [1 + row % 8 * 0.5 for row in range(ROWS)],
}


def read(path: str, **settings):
    data = DataSettings(train=path, **settings)
    return infer_competition(data, read_tables(data))


def labelled(**columns) -> dict[str, list]:
    """An id, a number, and what else is given."""
    size = [row * 0.37 % 9 for row in range(ROWS)]
    return {"id": list(range(1000, 1000 + ROWS)), "size": size, **columns}


TABLE = dict.fromkeys(["id", "a", "b", "c", "d", "e,f", "a,b", "g:h"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", "a"),
        ("a,c", "a c"),
        (" a , c ", "a c"),
        ("c,a", "c a"),
        ("a,b", "a,b"),
        ("e,f", "e,f"),
        ("c,e,f,d", "c e,f d"),
        ("b:d", "b c d"),
        ("b : d", "b c d"),
        ("a,c:d", "a c d"),
        ("c:e,f", "c d e,f"),
        ("d:a,b,a", "d e,f a,b a"),
        ("g:h", "g:h"),
        ("a:a", "a"),
    ],
)
def test_columns_are_named_by_lists_and_ranges_and_whole_names_win(text, names):
    assert " ".join(name_columns(text, TABLE, "train.csv", ranges=True)) == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "joy,feer"}, "no column 'feer' for the target; did you mean 'fear'?"),
        ({"targets": "joy:angr"}, "no column 'angr' for the target; did you mean 'anger'?"),
        ({"targets": "joi:anger"}, "no column 'joi' for the target; did you mean 'joy'?"),
        (
            {"target": "joy:anger"},
            "no column 'joy:anger' for the target; a range needs --targets 'joy:anger'",
        ),
        (
            {"targets": "anger:joy"},
            "column 'anger' is after 'joy'; a range of --targets goes from first to last: "
            "--targets 'joy:anger'",
        ),
        (
            {"targets": "joy:anger,fear"},
            "target 'fear' is given twice: joy:anger,fear",
        ),
        (
            {"target": "joy,text"},
            "train.csv, row 2: target 'text' is 'word 0', not a number; several targets are either "
            "all labels of 0 and 1 (multilabel) or all numbers (regression); predict words alone: "
            "--target text",
        ),
        (
            {"target": "joy", "task": "multilabel"},
            "multilabel is for several label columns, but 'joy' is the only target; name all, "
            "--target joy,..., or give --task binary",
        ),
        (
            {"target": "joy,fear", "task": "binary"},
            "task binary predicts one column, but 2 are targets (joy, fear); give one of them, or "
            "--task multilabel for labels of 0 and 1, --task regression for numbers",
        ),
        ({}, "no target given; name the column to predict: --target id|size|joy|fear|anger|text"),
    ],
)
def test_a_wrong_target_gets_one_line(settings, message, write_csv):
    text = [f"word {row}" for row in range(ROWS)]
    with pytest.raises(DataError) as caught:
        read(write_csv("train.csv", labelled(**LABELS, text=text)), **settings)
    assert str(caught.value).endswith(message)


def test_several_targets_of_0_and_1_are_labels_and_of_numbers_a_regression(write_csv):
    train = write_csv("train.csv", labelled(**LABELS, **SCORES))
    found = read(train, target="joy,anger", drop=("fear",))
    assert (found.task, found.metric, found.notes) == ("multilabel", "f1_macro", ())
    assert found.targets == found.classes == ("joy", "anger")
    assert [column.name for column in found.schema.features] == ["size", "cohesion", "syntax"]
    found = read(train, targets="cohesion:syntax")
    assert (found.task, found.metric, found.classes) == ("regression", "mcrmse", ())
    assert "--targets cohesion:syntax is 2 columns: cohesion, syntax" in found.notes
    assert read(train, target="joy,syntax").task == "regression"
    assert read(train, target="joy,fear", task="regression").metric == "mcrmse"
    assert read(train, target="syntax", metric="rmsle").log_target


def test_the_columns_of_the_sample_are_the_targets(write_csv):
    train = write_csv("train.csv", labelled(**LABELS, **SCORES))
    write_csv("test.csv", {"id": [5, 6], "size": [1, 2]})

    def targets(columns, **settings):
        write_csv("sample_submission.csv", {"id": [5, 6], **{name: [0, 0] for name in columns}})
        return read(train, **settings)

    file = train.replace("train.csv", "sample_submission.csv")
    found = targets(["joy"])
    assert (found.task, found.targets) == ("binary", ("joy",))
    assert found.notes[0] == f"target 'joy', the column of {file}; for another, add --target"
    found = targets(["anger", "joy"], task="multilabel")
    assert (found.task, found.targets) == ("multilabel", ("anger", "joy"))
    assert found.notes[0] == (
        f"2 targets (anger, joy), the columns of {file}; for another, add --target"
    )
    assert targets(["anger", "joy"]).task == "multilabel"
    found = targets(["syntax", "cohesion"], task="regression")
    assert (found.metric, found.targets) == ("mcrmse", ("syntax", "cohesion"))
    # One column per class says nothing about the target; nor do two of a task of one.
    for columns, settings in ((["class_0", "class_1"], {}), (["joy", "fear"], {"task": "binary"})):
        with pytest.raises(DataError, match="no target given"):
            targets(columns, **settings)


def test_a_labelled_test_table_hides_no_target_of_the_sample(write_csv):
    train = write_csv("train.csv", labelled(**LABELS))
    write_csv("test.csv", {name: cells[:3] for name, cells in labelled(**LABELS).items()})
    write_csv("sample_submission.csv", {"id": [1000, 1001], "joy": [0, 0], "anger": [0, 0]})
    assert read(train).targets == ("joy", "anger")
    assert read(train).submission.ids == ("id",)


def test_labels_without_a_name_are_the_longest_run_of_adjacent_0_1_columns(write_csv):
    alone = [int(row % 2 == 0) for row in range(ROWS)]
    table = {"flag": alone, **labelled(**LABELS), "note": ["x", "y", "z"] * 20, "open": alone}
    train = write_csv("train.csv", {**table, "closed": [1 - cell for cell in alone]})
    found = read(train, task="multilabel")
    assert found.targets == ("joy", "fear", "anger")
    assert found.notes[0] == (
        "3 labels (joy, fear, anger), the longest run of adjacent columns of 0 and 1; for others, "
        "add --targets"
    )
    # A column of the test table is known when predicting, so it is no label.
    write_csv("test.csv", {"id": [5], "size": [1], "note": ["x"], "open": [0], "fear": [0]})
    with pytest.raises(DataError) as caught:
        read(train, task="multilabel")
    assert str(caught.value) == (
        f"{train}: no labels found for --task multilabel: no two adjacent columns have only 0 and "
        f"1; name the labels: --targets FIRST:LAST"
    )


def test_two_runs_and_one_hot_columns_are_no_answer(write_csv):
    other = {f"is {name}": cells[::-1] for name, cells in LABELS.items()}
    train = write_csv("train.csv", {**LABELS, **labelled(**other)})
    with pytest.raises(DataError) as caught:
        read(train, task="multilabel")
    assert str(caught.value) == (
        f"{train}: 2 runs of 3 adjacent columns of 0 and 1 could be the labels (joy:anger and "
        f"is joy:is anger); name the labels: --targets FIRST:LAST"
    )
    kinds = {f"kind_{n}": [int(row % 3 == n) for row in range(ROWS)] for n in range(3)}
    train = write_csv("train.csv", labelled(**kinds))
    with pytest.raises(DataError) as caught:
        read(train, task="multilabel")
    assert str(caught.value) == (
        f"{train}: no labels found for --task multilabel: each row has one 1 in kind_0, kind_1, "
        f"kind_2, as one class does; name the labels: --targets FIRST:LAST"
    )
    assert read(train, targets="kind_0:kind_2").task == "multilabel"


def test_a_constant_label_is_kept_and_named(write_csv):
    train = write_csv("train.csv", labelled(**LABELS, grief=[0] * ROWS))
    found = read(train, task="multilabel")
    assert found.classes == ("joy", "fear", "anger", "grief")
    assert found.notes[1:] == (
        "1 label is constant in all 60 rows: grief (0); roc_auc is undefined for it",
    )
    train = write_csv("train.csv", labelled(joy=[0] * ROWS, grief=[0] * ROWS))
    with pytest.raises(DataError, match="target 'joy' is '0' in every row"):
        read(train, target="joy,grief")
    scores = {**SCORES, "tone": [3] * ROWS}
    with pytest.raises(DataError, match="target 'tone' is '3' in every row"):
        read(write_csv("train.csv", labelled(**scores)), targets="cohesion:tone")


def test_rows_with_unknown_labels_are_dropped_and_counted(write_csv):
    table = labelled(**{name: list(cells) for name, cells in LABELS.items()})
    table["fear"][4] = ""
    table["joy"][9] = table["anger"][9] = "NA"
    for name in LABELS:
        table[name][20] = -1
    train = write_csv("train.csv", table)
    found = read(train, targets="joy:anger")
    assert found.task == "multilabel"
    notes = [
        f"{train}: dropped 2 of 60 rows without one of the 3 targets (first: row 6, fear)",
        f"{train}: dropped 1 of 60 rows with a label of -1, so not scored (first: row 22, joy)",
    ]
    assert list(found.notes[1:]) == notes
    kept, rows, more = drop_unlabelled(
        read_tables(DataSettings(train=train)).train, found.targets, train, found.task
    )
    assert more == notes
    assert rows.tolist() == [row for row in range(ROWS) if row not in (4, 9, 20)]
    truth = np.array([[LABELS[name][row] for name in LABELS] for row in rows])
    np.testing.assert_array_equal(Target(found, train).encode(kept, rows), truth)
    # Without the task, -1 in one column may be a number.
    table["joy"][30] = -1
    train = write_csv("train.csv", table)
    found = read(train, targets="joy:anger")
    assert (found.task, found.notes[-1]) == (
        "regression",
        "the 3 targets have -1, 0 and 1, read as a regression; if they are labels, and -1 those "
        "not scored, add --task multilabel",
    )
    assert "dropped 2 of 60 rows with a label of -1" in str(
        read(train, targets="joy:anger", task="multilabel").notes
    )
    with pytest.raises(DataError) as caught:
        drop_unlabelled({"a": ["-1", "0"], "b": ["1", ""]}, ("a", "b"), "val.csv", "multilabel")
    assert str(caught.value) == (
        "val.csv: one of the 2 targets (a, b) is missing or -1 in all 2 rows"
    )


@pytest.mark.parametrize("pair", [("False", "True"), ("no", "yes"), ("N", "Y"), ("0.0", "1.0")])
def test_labels_of_other_spellings_mean_0_and_1(pair, write_csv):
    spelled = {name: [pair[cell] for cell in cells] for name, cells in LABELS.items()}
    train = write_csv("train.csv", labelled(**spelled))
    found = read(train, task="multilabel")
    assert found.targets == tuple(LABELS)
    encoded = Target(found, train).encode(read_tables(DataSettings(train=train)).train)
    np.testing.assert_array_equal(encoded, np.array(list(LABELS.values())).T)
    with pytest.raises(DataError) as caught:
        Target(found, "val.csv").encode({"joy": ["1", "2"], "fear": ["0"] * 2, "anger": ["0"] * 2})
    assert str(caught.value) == (
        "val.csv, row 3: joy is '2', not a label of 0 or 1 (or false and true, no and yes)"
    )


def test_features_are_checked_against_all_targets(write_csv):
    copy = ["yes" if cell else "no" for cell in LABELS["fear"]]
    table = labelled(**LABELS, copy=copy)
    train = write_csv("train.csv", table)
    found = read(train, target="joy,fear")
    assert found.notes == (
        "column 'copy' is dropped: it copies the target 'fear'",
        "1 column next to the 2 targets also has 0 and 1 (anger): if it is a label too, it is "
        "unknown when predicting and the score is too good; drop it: --set 'data.drop=[\"anger\"]'",
    )
    write_csv("sample_submission.csv", {"id": [1, 2], "joy": [0, 0], "fear": [0, 0]})
    test = write_csv("test.csv", {"id": [1, 2], "size": [1, 2], "copy": ["no", "no"]})
    found = read(train, target="joy,fear")
    assert f"column 'anger' is dropped: not in {test}, so not known when predicting" in found.notes
    assert found.submission.targets == ("joy", "fear")


def test_ordered_classes_have_the_order_of_their_numbers(write_csv):
    quality = [str(3 + row % 8) for row in range(ROWS)]
    train = write_csv("train.csv", labelled(quality=quality))
    found = read(train, target="quality", task="ordinal")
    assert (found.metric, found.classes) == ("quadratic_kappa", (*"3456789", "10"))
    codes = Target(found).encode({"quality": ["3", "10.0", "9"]})
    assert codes.tolist() == [0, 7, 6]
    for metric in ("accuracy", "mae", "log_loss"):
        assert read(train, target="quality", task="ordinal", metric=metric).metric == metric
    train = write_csv("train.csv", labelled(amount=[row * 1.5 for row in range(ROWS)]))
    assert len(read(train, target="amount", task="ordinal").classes) == ROWS


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            (),
            "train.csv: target 'cut' has words, and ordered classes need an order, from low to "
            'high: --set \'data.order=["Fair", "Good", "Very Good"]\' (now in alphabetical order)',
        ),
        (
            ("Fair", "Good", "VeryGood"),
            "train.csv: target 'cut' has no 'VeryGood' of data.order; did you mean 'Very Good'?",
        ),
        (
            ("Very Good", "Fair"),
            "train.csv: target 'cut' has 'Good', which is not in data.order (Very Good, Fair); add "
            "it in its place",
        ),
        (("Good", "Fair", "good", "Very Good"), "data.order has 'Good' more than once"),
    ],
)
def test_words_need_an_order(order, message, write_csv):
    train = write_csv("train.csv", labelled(cut=["Very Good", "Fair", "Good"] * 20))
    with pytest.raises(DataError) as caught:
        read(train, target="cut", task="ordinal", order=order)
    assert str(caught.value).endswith(message)


def test_a_given_order_makes_words_ordinal(write_csv):
    train = write_csv("train.csv", labelled(cut=["Very Good", "Fair", "Good"] * 20))
    found = read(train, target="cut", order=("fair", "Good", "Very Good"))
    assert (found.task, found.classes) == ("ordinal", ("Fair", "Good", "Very Good"))
    assert read(train, target="cut").task == "multiclass"
    with pytest.raises(DataError, match="ordered classes need an order"):
        read(train, target="cut", metric="quadratic_kappa")


def test_a_metric_of_another_task_lists_those_of_the_task(write_csv):
    train = write_csv("train.csv", labelled(**LABELS))
    with pytest.raises(DataError) as caught:
        read(train, target="joy,fear", metric="mcc")
    assert str(caught.value) == (
        "metric 'mcc' is for binary, multiclass, ordinal, but the task is multilabel; metrics of "
        "multilabel: f1_macro, f1_micro, f1_weighted, f1_samples, precision_macro, "
        "precision_micro, recall_macro, recall_micro, jaccard_macro, exact_match, hamming_loss, "
        "roc_auc, average_precision, log_loss, brier, ece"
    )


def test_a_given_competition_decides_task_and_metric(write_csv):
    jigsaw = "jigsaw-toxic-comment-classification-challenge"
    train = write_csv("train.csv", labelled(**LABELS))
    found = read(train, competition=jigsaw)
    assert (found.task, found.metric, len(found.targets)) == ("multilabel", "roc_auc", 3)
    assert read(train, competition=jigsaw, metric="f1_micro").metric == "f1_micro"
    with pytest.raises(DataError) as caught:
        read(train, competition="jigsaw-toxic-comment-clasification")
    assert str(caught.value).endswith(f"of data.competition; did you mean {jigsaw!r}?")


@pytest.mark.parametrize("how", ["range", "names", "task", "sample"])
def test_the_28_labels_of_goemotions_are_found_in_each_way(how, shared_data, write_csv):
    train = str(shared_data / "goemotions" / "train.csv")
    tables = read_tables(DataSettings(train=train))
    names = list(tables.train)[2:]
    settings = {
        "range": {"targets": "admiration:neutral"},
        "names": {"target": ",".join(names)},
        "task": {"task": "multilabel"},
        "sample": {
            "sample_submission": write_csv(
                "s.csv", {"id": tables.test["id"], **{name: [0] * 2000 for name in names[::-1]}}
            )
        },
    }[how]
    found = read(train, **settings)
    assert (found.task, len(found.targets), found.id_column) == ("multilabel", 28, "id")
    assert found.targets == found.classes == tuple(names[:: -1 if how == "sample" else 1])
    assert [column.name for column in found.schema.features] == ["text"]
    assert not [note for note in found.notes if "labels too" in note]


def test_train_without_any_target_is_wrong_usage(run_cli, write_csv, tmp_path):
    train = write_csv("train.csv", labelled(**LABELS))
    done = run_cli("train", "--train", train, "--output", "run", code=2)
    assert done.stderr.split("\n")[-2] == "Error: Missing option '--target'."
    assert not (tmp_path / "run").exists()
