"""The check of a submission against the sample, before `predict` writes and `submit` uploads."""

import json
import sys

import pytest

from mlx_kaggle.tables.competition import Format
from mlx_kaggle.tables.submission_check import SubmissionError, check_submission

SAMPLE = {"Id": ["1", "2", "3", "4"], "y": ["0", "1", "0", "0"]}


def faults(submission: dict, sample: dict = SAMPLE, form: Format | None = None) -> list[str]:
    with pytest.raises(SubmissionError) as caught:
        check_submission(submission, sample, "out.csv", "sample.csv", form=form)
    return [*map(str, caught.value.faults)]


def test_all_faults_are_named_with_their_rows_at_once():
    wrong = {"Id": ["1", "1", "9", "4"], "y": ["0", None, "yes", "1.0"]}
    assert faults(wrong) == [
        "row 4: id '9' is not in sample.csv",
        "row 3: id '1' repeats",
        "2 ids of sample.csv are missing: '2', '3'",
        "row 3: y is '', not a number without a decimal point, as in sample.csv",
        "rows 4, 5: y is 'yes', '1.0', not a number without a decimal point, as in sample.csv",
    ]


def test_the_message_for_predict_is_one_line_with_the_file():
    with pytest.raises(SubmissionError) as caught:
        check_submission({"Id": ["1"], "y": ["x"]}, SAMPLE, "out.csv", "s.csv")
    assert str(caught.value) == (
        "out.csv: 1 rows; s.csv has 4; out.csv: 3 ids of s.csv are missing: '2', '3', '4'; "
        "out.csv, row 2: y is 'x', not a number"
    )


def test_a_wrong_or_missing_column_is_named_and_the_others_are_checked():
    assert faults({"Id": ["1", "2", "3", "7"], "Y": ["0"] * 4}) == [
        "columns are Id, Y; sample.csv has Id, y",
        "row 5: id '7' is not in sample.csv",
        "1 ids of sample.csv are missing: '4'",
    ]


def test_rows_may_be_in_another_order_and_numbers_of_a_regression_are_free():
    shuffled = {"Id": ["4", "2", "1", "3"], "y": ["0.5", "1e-3", "12", "-1"]}
    line = check_submission(shuffled, SAMPLE, "out.csv", "sample.csv")
    assert line == "columns, 4 ids and values agree with sample.csv"
    zeros = SAMPLE | {"y": ["0"] * 4}
    counts = SAMPLE | {"y": ["3.0", "12.0", "1.0", "0.0"]}
    assert check_submission(counts, zeros, "out.csv", "sample.csv")
    assert "decimal point" in faults(SAMPLE | {"y": ["1.0", "0.0", "0.0", "0.0"]}, zeros)[0]


def test_words_follow_the_spelling_of_the_sample():
    false = SAMPLE | {"y": ["False"] * 4}
    right = SAMPLE | {"y": ["True", "False", "True", "False"]}
    assert check_submission(right, false, "out.csv", "sample.csv")
    lower = SAMPLE | {"y": ["true", "False", "1", "False"]}
    assert faults(lower, false) == ["rows 2, 4: y is 'true', '1', not one of False, True"]
    words = SAMPLE | {"y": ["cat", "dog", "cat", "dog"]}
    assert faults(SAMPLE | {"y": ["cat", "Dog", "cow", "dog"]}, words) == [
        "rows 3, 4: y is 'Dog', 'cow', not one of cat, dog"
    ]


@pytest.mark.parametrize("word", ["EAP", "Y"])  # of an author, and of one of four answers
def test_a_sample_of_one_word_shows_no_other_class_which_is_said(word):
    one = SAMPLE | {"y": [word] * 4}
    other = SAMPLE | {"y": [word, "HPL", "MWS", word]}
    line = check_submission(other, one, "out.csv", "sample.csv")
    assert line.endswith("; it does not show which values y may have")
    assert faults(SAMPLE | {"y": ["EAP", "", "MWS", "EAP"]}, one) == ["row 3: y is '', not a value"]


def test_a_run_knows_the_classes_that_the_sample_does_not_show():
    form = Format(("Id", "y"), ("Id",), "label", ("a", "b"), {"a": "A", "b": "B"})
    one = SAMPLE | {"y": ["A"] * 4}
    assert check_submission(SAMPLE | {"y": [*"ABBA"]}, one, "out.csv", "s.csv", form=form)
    assert faults(SAMPLE | {"y": [*"ABbA"]}, one, form) == ["row 4: y is 'b', not one of A, B"]
    chance = Format(("Id", "y"), ("Id",), "probability", ("a", "b"))
    assert faults(SAMPLE | {"y": ["0.1", "1.2", "0", "1"]}, SAMPLE, chance) == [
        "row 3: y is '1.2', not a probability from 0 to 1"
    ]


def test_several_id_columns_are_found_by_what_tells_the_rows_apart():
    sample = {"user": ["a", "a", "b"], "item": ["1", "2", "1"], "y": ["0", "0", "0"]}
    wrong = {"user": ["a", "b", "b"], "item": ["1", "1", "2"], "y": ["0.1", "0.2", "0.3"]}
    assert faults(wrong, sample) == [
        "row 4: id 'b, 2' is not in sample.csv",
        "1 ids of sample.csv are missing: 'a, 2'",
    ]


def test_many_faults_are_counted():
    sample = {"Id": [*map(str, range(50))], "y": ["0"] * 50}
    wrong = sample | {"y": ["nan"] * 50}
    assert faults(wrong, sample) == ["rows 2, 3, 4, 5, 6 and 45 more: y is 'nan', not a number"]


def test_the_command_checks_without_kaggle(run_cli, write_csv, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaggle", None)
    sample, file = write_csv("sample.csv", SAMPLE), write_csv("out.csv", SAMPLE)
    given = ("kaggle", "check", file, "--sample-submission", sample)
    assert "4 ids and values agree" in run_cli(*given).stdout
    write_csv("out.csv", SAMPLE | {"y": ["0", "1", "nan", "oh"]})
    done = run_cli(*given, code=1)
    assert f"{file}: row 4: y is 'nan', not a number" in done.stderr
    assert done.stderr.endswith(f"Error: {file}: 2 faults\n")
    found = json.loads(run_cli(*given, "--json", code=1).stdout)
    assert [each["rows"] for each in found["faults"]] == [[4], [5]]
    assert found["faults"][0]["column"] == "y"


def test_without_the_client_one_line_says_what_to_install(run_cli, write_csv, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaggle", None)
    for arguments in (("download", "titanic"), ("kaggle", "limits", "titanic")):
        done = run_cli(*arguments, code=1)
        assert done.stderr.startswith("Error: the Kaggle client is not installed (")
        assert done.stderr.endswith("): pip install 'mlx-kaggle[kaggle]'\n")


def test_usage_errors_come_before_kaggle_is_asked(run_cli, write_csv):
    file = write_csv("out.csv", SAMPLE)
    done = run_cli("submit", "titanic", file, "--message", "x", code=2)
    assert "give --sample-submission FILE, or --unchecked" in done.stderr
    assert "Missing option '--message'" in run_cli("submit", "titanic", file, code=2).stderr
    assert "no name of a competition" in run_cli("download", "../x", code=2).stderr
