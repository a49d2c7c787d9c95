"""The commands as a user runs them; one run of each is in a process of its own."""

import csv
import json
import subprocess
import sys

import pytest

from mlx_kaggle.presets import NAMES


def train_arguments(passengers, write_csv, tiny_flags, rows=60, epochs=2):
    train = write_csv("train.csv", passengers(rows))
    return [
        *("train", "--train", train, "--target", "Survived", "--folds", 2, "--output", "run"),
        *("--set", f"training.epochs={epochs}"),
        *tiny_flags,
    ]


@pytest.mark.usefixtures("compiled")
def test_train_predict_evaluate_write_a_checked_submission(
    start_cli, passengers, write_csv, tiny_flags, tmp_path
):
    def run(*arguments) -> str:
        process = start_cli(*arguments)
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        return out

    test = passengers(20, seed=1, first_id=100)
    answers = write_csv("answers.csv", test)
    hidden = write_csv("test.csv", {k: v for k, v in test.items() if k != "Survived"})
    write_csv("sample_submission.csv", {"PassengerId": test["PassengerId"], "Survived": [0] * 20})
    out = run(*train_arguments(passengers, write_csv, tiny_flags))
    assert "target Survived: binary" in out
    assert "HistGradientBoosting" in out
    assert "expected time: about" in out
    report = (tmp_path / "run" / "report.html").read_text()
    assert "<svg" in report
    assert 'src="http' not in report
    assert 'href="http' not in report
    out = run("predict", "--run", "run", "--test", hidden, "--output", "submission.csv")
    assert "20 ids and values agree with" in out
    with (tmp_path / "submission.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["PassengerId"]) for row in rows] == test["PassengerId"]
    assert {row["Survived"] for row in rows} <= {"0", "1"}
    out = run("evaluate", "--run", "run", "--data", answers, "--json")
    assert 0 <= json.loads(out)["accuracy"] <= 1


def test_thorough_fine_tunes_a_modernbert_folder_with_folds_seeds_and_views(
    run_cli, passengers, write_csv, tiny_modernbert, tmp_path
):
    train = write_csv("train.csv", passengers(40))
    run_cli(
        *("train", "--preset", "thorough", "--encoder", tiny_modernbert, "--train", train),
        *("--target", "Survived", "--folds", 2, "--output", "run", "--set", "training.epochs=1"),
        *("--set", "training.seeds=2", "--set", "text.max_tokens=64", "--members", "text"),
    )
    members = sorted(path.name for path in (tmp_path / "run" / "members").glob("*-seed-*"))
    assert members == ["fold-0-seed-0", "fold-0-seed-1", "fold-1-seed-0", "fold-1-seed-1"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len(summary["fold_scores"]) == 2


def test_rmsle_of_a_skewed_price_with_a_text_column_and_no_id(run_cli, write_csv, tiny_flags):
    rooms = [1 + row % 5 for row in range(60)]
    table = {
        "rooms": rooms,
        "advert": [f"flat {row}: {n} rooms and a view of park {n}" for row, n in enumerate(rooms)],
        "price": [1000 * 2**n + row for row, n in enumerate(rooms)],
    }
    train = write_csv("prices.csv", table)
    done = run_cli(
        *("train", "--train", train, "--target", "price", "--metric", "rmsle", "--output", "run"),
        *("--task", "regression", "--folds", 0, "--set", "training.epochs=2", *tiny_flags),
    )
    assert "trained on its logarithm" in done.stdout
    assert "HistGradientBoosting" in done.stdout
    run_cli("predict", "--run", "run", "--test", train, "--output", "out.csv", code=1)
    done = run_cli(
        "predict", "--run", "run", "--test", train, "--output", "out.csv", "--allow-leak"
    )
    assert "LEAK allowed by --allow-leak" in done.stdout


def test_one_column_a_class_in_the_order_of_the_sample_whatever_the_names(
    run_cli, write_csv, tiny_flags, tmp_path
):
    names = ["$10_$20", "[/b]", "two\nlines"]
    rows = {"Id": list(range(60)), "size": [row % 3 + row / 100 for row in range(60)]}
    train = {**rows, "kind": [names[row % 3] for row in range(60)]}
    train["kind"][7] = ""
    train["kind"][8] = "once"
    train = write_csv("train.csv", train)
    test = write_csv("test.csv", {"Id": [90, 91, 92], "size": [0.105, 1.105, 2.105]})
    columns = {f"p_{name}": [0.25] * 3 for name in ("two\nlines", "once", "[/b]", "$10_$20")}
    write_csv("sample_submission.csv", {"Id": [92, 90, 91], **columns})
    done = run_cli(
        *("train", "--train", train, "--target", "kind", "--folds", 2, "--output", "run"),
        *("--set", "training.epochs=1", *tiny_flags),
    )
    assert "train.csv: dropped 1 of 60 rows without a target (first: row 9)" in done.stdout
    assert "class 'once' has 1 row: it is trained on and never validated" in done.stdout
    assert "could not be drawn" not in done.stderr
    assert ">$10_$20</text>" in (tmp_path / "run" / "report.html").read_text()
    run_cli("predict", "--run", "run", "--test", test, "--output", "submission.csv")
    with (tmp_path / "submission.csv").open(newline="") as file:
        header, *written = csv.reader(file)
    assert header == ["Id", *columns]
    assert [row[0] for row in written] == ["92", "90", "91"]
    shares = [dict(zip(columns, map(float, row[1:]), strict=True)) for row in written]
    assert [sum(each.values()) for each in shares] == pytest.approx([1, 1, 1])
    assert [max(each, key=each.__getitem__) for each in shares] == [
        "p_two\nlines",
        "p_$10_$20",
        "p_[/b]",
    ]


def test_a_sample_that_fits_nothing_is_refused_before_training(
    run_cli, passengers, write_csv, tiny_flags, tmp_path
):
    write_csv("sample_submission.csv", {"PassengerId": [1, 2], "a": [0, 0], "b": [0, 0]})
    arguments = train_arguments(passengers, write_csv, tiny_flags, rows=40)
    for more in ([], ["--dry-run"]):
        done = run_cli(*arguments, *more, code=1)
        assert done.stderr == (
            f"Error: {tmp_path}/sample_submission.csv: its columns besides the ids (PassengerId) "
            f"are neither one prediction nor one column per class: a, b; the 2 classes of "
            f"'Survived': 0, 1\n"
        )
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten_unasked(run_cli, passengers, write_csv, tiny_flags):
    arguments = train_arguments(passengers, write_csv, tiny_flags, rows=40, epochs=1)
    run_cli(*arguments)
    done = run_cli(*arguments, code=1)
    assert done.stderr.startswith("Error: run is a run: resume or overwrite it (--resume")
    run_cli("train", "--resume", "--output", "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--target", "Surived"], "no column 'Surived' for the target; did you mean 'Survived'?"),
        (["--set", "training.epoch=3"], "did you mean 'epochs'?"),
        (["--set", "training.epochs=many"], "training.epochs"),
        (
            ["--set", "training.optimizer=lion"],
            "training.optimizer: unknown value 'lion'; valid: adamw, muon",
        ),
        (["--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["--metric", "rmse"], "but the task is binary; metrics of binary: accuracy, bala"),
        (["--metric", "f1_samples"], "metric 'f1_samples' is for multilabel, but the task is bin"),
        (["--kind", "Agee=numeric"], "did you mean 'Age'?"),
        (["--encoder", "no/such/folder"], "no/such/folder"),
    ],
)
def test_a_wrong_word_gets_one_line(change, message, run_cli, passengers, write_csv, tiny_flags):
    arguments = train_arguments(passengers, write_csv, tiny_flags, rows=40, epochs=1)
    done = run_cli(
        *arguments, *change, code=2 if change[0] == "--set" or "acuracy" in change else 1
    )
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(start_cli, passengers, write_csv, tiny_flags):
    arguments = train_arguments(passengers, write_csv, tiny_flags, rows=40)
    process = start_cli(*arguments, "--target", "nothing", "--debug")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in errors


def test_wrong_usage_exits_with_two(run_cli):
    assert "Did you mean" in run_cli("trian", code=2).stderr
    assert "No such option" in run_cli("train", "--fold", "5", code=2).stderr
    assert "'sgd' is not one of" in run_cli("train", "--optimizer", "sgd", code=2).stderr
    assert "Missing option '--train'" in run_cli("train", "--output", "run", code=2).stderr
    run_cli("train", "--resume", "--output", "run", "--seed", "1", code=2)


def test_help_needs_no_heavy_import():
    code = (
        "import sys, mlx_kaggle.cli\n"
        "names = {'mlx', 'numpy', 'sklearn', 'rich', 'tokenizers', 'matplotlib'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_info_lists_what_matters(run_cli):
    found = json.loads(run_cli("info", "--json").stdout)
    assert set(found["presets"]) == set(NAMES)
    assert "mlx-tabtext" in found["packages"]
