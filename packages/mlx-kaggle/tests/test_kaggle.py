"""The commands for Kaggle, through its official client, against a stand-in server."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("kaggle") is None:
    pytest.skip("needs the extra kaggle", allow_module_level=True)

_spec = importlib.util.spec_from_file_location(
    "kaggle_server", Path(__file__).with_name("kaggle_server.py")
)
assert _spec
assert _spec.loader
kaggle_server = importlib.util.module_from_spec(_spec)
sys.modules["kaggle_server"] = kaggle_server
_spec.loader.exec_module(kaggle_server)

KEY, TOKEN = kaggle_server.KEY, kaggle_server.TOKEN
PASSWORD = {"KAGGLE_USERNAME": kaggle_server.USER, "KAGGLE_KEY": KEY}


@pytest.fixture
def server():
    """A titanic-shaped competition on the endpoint that the client has for tests."""
    competition = kaggle_server.Competition("titanic", *kaggle_server.titanic(80, 20))
    try:
        with kaggle_server.serving(competition):
            yield competition
    except OSError as error:
        pytest.skip(f"port 7777 is taken: {error}")


@pytest.fixture
def cli(tmp_path):
    """Run a command in a process of its own, with a home of its own and no network."""
    home = tmp_path / "home"
    home.mkdir()
    base = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("KAGGLE_") and not name.lower().endswith("_proxy")
    }
    base |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    # Importing the client asks kaggle.com about a token, whatever the endpoint is.
    base |= {"HTTPS_PROXY": "http://127.0.0.1:9", "KAGGLE_API_ENVIRONMENT": "TEST"}

    def run(*arguments, code=0, env=PASSWORD):
        command = [sys.executable, "-m", "mlx_kaggle.cli", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=base | env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert KEY not in done.stdout + done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def submission(server, tmp_path):
    """Write a submission beside the sample, with some cells replaced; a cell is (row, column)."""
    folder = tmp_path / "titanic"
    folder.mkdir()
    for name, content in server.files.items():
        (folder / name).write_bytes(content)

    def write(name="submission.csv", cells=(), drop=()):
        lines = server.files["gender_submission.csv"].decode().splitlines()
        table = [line.split(",") for line in lines]
        for (row, column), text in dict(cells).items():
            table[row - 1][column] = text
        kept = [",".join(line) for row, line in enumerate(table, 1) if row not in drop]
        (tmp_path / name).write_text("\n".join(kept) + "\n")
        return name

    return write


def test_from_download_to_the_leaderboard(server, cli, tmp_path):
    done = cli("download", "titanic")
    assert done.stdout.splitlines()[-2:] == [
        "wrote 3 of 3 files to titanic",
        "next: mlx-kaggle train --train titanic/train.csv --set data.competition=titanic "
        "--output runs/titanic",
    ]
    for name, content in server.files.items():
        assert (tmp_path / "titanic" / name).read_bytes() == content
    train = done.stdout.splitlines()[-1].removeprefix("next: mlx-kaggle ").split()
    tiny = ("--members", "trees,linear", "--folds", 2, "--set", "blend.generate=none")
    score = json.loads(cli(*train, *tiny, "--json").stdout)["score"]
    predicted = ("--test", "titanic/test.csv", "--output", "submission.csv")
    cli("predict", "--run", "runs/titanic", *predicted)

    dry = cli("submit", "titanic", "submission.csv", "--run", "runs/titanic", "--dry-run")
    message = f"titanic: accuracy {score:.5g}, cross-validated"
    assert dry.stdout.splitlines()[-2:] == [
        f"would submit submission.csv to titanic: {message}",
        "would note it in submissions.jsonl of runs/titanic",
    ]
    assert not server.submissions
    done = cli("submit", "titanic", "submission.csv", "--run", "runs/titanic")
    public = server.score((tmp_path / "submission.csv").read_bytes())[0]
    assert public > 0.7
    assert done.stdout.splitlines() == [
        "checked: columns, 20 ids and values agree with titanic/gender_submission.csv",
        "submissions today: 0, left: 10",
        "submitted submission.csv as 5000",
        "waiting for the score, 0 s",
        f"public score: {public:.5g}; cross-validated: accuracy {score:.5g}",
    ]
    (line,) = (tmp_path / "runs/titanic/submissions.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["public_score"], entry["status"]) == (pytest.approx(public, abs=1e-5), "complete")
    assert (entry["message"], entry["ref"], len(entry["sha256"])) == (message, 5000, 64)

    listed = json.loads(cli("kaggle", "submissions", "titanic", "--json").stdout)
    assert [(each["message"], each["status"]) for each in listed] == [(message, "complete")]
    teams = json.loads(cli("kaggle", "leaderboard", "titanic", "--json").stdout)
    assert {each["team"]: each["score"] for each in teams} == {
        "ada": pytest.approx(public, abs=1e-5),
        "gender model": 0.76555,
    }
    assert cli("kaggle", "limits", "titanic").stdout == "submissions today: 1, left: 9\n"
    # A prediction of one run may be submitted twice; both are noted.
    cli("submit", "titanic", "submission.csv", "--run", "runs/titanic", "-m", "again", "--json")
    lines = (tmp_path / "runs/titanic/submissions.jsonl").read_text().splitlines()
    assert [json.loads(each)["ref"] for each in lines] == [5000, 5001]
    for path in [each for each in tmp_path.rglob("*") if each.is_file()]:
        assert KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": [7]}, "19 rows; titanic/gender_submission.csv has 20"),
        ({"cells": {(4, 0): "81"}}, "row 4: id '81' repeats"),
        ({"cells": {(5, 1): "nan"}}, "row 5: Survived is 'nan', not a number"),
        ({"cells": {(1, 1): "survived"}}, "columns are PassengerId, survived; titanic/gender"),
        ({"cells": {(3, 1): "yes"}}, "row 3: Survived is 'yes', not a number"),
        ({"cells": {(3, 1): "1.0"}}, "row 3: Survived is '1.0', not a number without a decimal"),
    ],
)
def test_a_bad_submission_never_reaches_the_server(submission, server, cli, change, message):
    file = submission(**change)
    done = cli("submit", "titanic", file, "--message", "bad", code=1)
    assert f"submission.csv: {message}" in done.stderr
    assert done.stderr.endswith("nothing was uploaded\n")
    assert server.calls == []


def test_a_file_that_kaggle_cannot_score_is_an_error_with_its_reason(submission, server, cli):
    file = submission(drop=[7])
    done = cli("submit", "titanic", file, "-m", "short", "--unchecked", code=1)
    assert "not checked (--unchecked)" in done.stdout
    assert "Error: Kaggle could not score submission.csv: Submission must have 20" in done.stderr
    assert "short    error   Submission must" in cli("kaggle", "submissions", "titanic").stdout


def test_a_score_that_takes_longer_than_the_wait_is_not_an_error(submission, server, cli):
    server.polls = 99
    done = cli("submit", "titanic", submission(), "-m", "slow", "--wait", 0)
    assert "no score in 0 s; later: mlx-kaggle kaggle submissions titanic" in done.stdout


def test_no_upload_begins_when_no_submission_is_left(submission, server, cli):
    server.limit = 1
    cli("submit", "titanic", submission(), "-m", "one")
    server.calls.clear()
    done = cli("submit", "titanic", submission(), "-m", "two", code=1)
    assert "no submission to titanic is left today" in done.stderr
    assert server.calls == ["GetSubmissionLimits"]


def test_an_upload_that_breaks_is_sent_again_by_the_client(submission, server, cli):
    server.faults = ["cut upload"]
    assert "public score" in cli("submit", "titanic", submission(), "-m", "cut").stdout
    assert server.calls.count("PUT") == 2
    assert len(server.submissions) == 1


def test_an_upload_that_fails_submits_nothing(submission, server, cli):
    server.faults = ["fail upload"]
    done = cli("submit", "titanic", submission(), "-m", "x", code=1)
    assert "Error: the upload of submission.csv failed, and nothing was submitted" in done.stderr
    assert "CreateSubmission" not in server.calls


def test_a_failure_after_the_upload_says_that_the_outcome_is_unknown(submission, server, cli):
    server.faults = ["fail create"]
    done = cli("submit", "titanic", submission(), "-m", "x", code=1)
    assert "Kaggle fails at the moment (503: Service unavailable)" in done.stderr
    assert "whether Kaggle has the submission is not known" in done.stderr


def test_a_download_that_breaks_goes_on_where_it_stopped(server, cli, tmp_path):
    server.faults = ["cut download"]
    cli("download", "titanic", "--output", "data")
    assert server.calls.count("range") == 1
    for name, content in server.files.items():
        assert (tmp_path / "data" / name).read_bytes() == content


@pytest.mark.parametrize(
    ("faults", "members", "message"),
    [
        (["cut download", "busy"], {}, "too many requests to Kaggle (429: Busy)"),
        (["fail list"], {}, "Kaggle fails at the moment (500: Internal error)"),
        ([], {"../evil.csv": b"x"}, "'../evil.csv' would be written outside of the folder"),
        ([], {"/evil.csv": b"x"}, "'/evil.csv' would be written outside of the folder"),
        ([], {"train.csv": b"x"}, "train.csv: 1 bytes came, and titanic lists"),
    ],
)
def test_a_download_that_fails_leaves_nothing(server, cli, tmp_path, faults, members, message):
    server.faults, server.extra_members = faults, members
    assert message in cli("download", "titanic", "--output", "data", code=1).stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home"]


def test_files_that_differ_are_replaced_only_with_overwrite(submission, server, cli, tmp_path):
    train = tmp_path / "titanic/train.csv"
    train.write_text("mine\n")
    (tmp_path / "titanic/notes.txt").write_text("mine too\n")
    done = cli("download", "titanic", code=1)
    assert "titanic: train.csv differs from what Kaggle has now" in done.stderr
    assert train.read_text() == "mine\n"
    found = json.loads(cli("download", "titanic", "--overwrite", "--json").stdout)
    assert found["written"] == ["train.csv"]
    assert len(found["files"]) == 3
    assert train.read_bytes() == server.files["train.csv"]
    assert (tmp_path / "titanic/notes.txt").read_text() == "mine too\n"


def test_one_file_comes_alone_packed_or_not(server, cli, tmp_path):
    for name in ("test.csv", "train.csv"):  # the server packs train.csv, as Kaggle does large files
        cli("download", "titanic", "--file", name)
        assert (tmp_path / "titanic" / name).read_bytes() == server.files[name]
    assert len([*(tmp_path / "titanic").iterdir()]) == 2
    done = cli("download", "titanic", "--file", "trian.csv", code=1)
    assert "no file 'trian.csv'; its files: gender_submission.csv, test.csv" in done.stderr
    assert "train.csv              1,754" in cli("kaggle", "files", "titanic").stdout


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "no Kaggle credentials, or Kaggle does not know them; create a token at https://"),
        ({"KAGGLE_API_TOKEN": "KGAT_wrong"}, "no Kaggle credentials, or Kaggle does not know"),
        ({"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": "no"}, "does not accept the credentials (401"),
    ],
)
def test_credentials_that_are_wrong_or_absent_are_one_line(server, cli, env, message):
    done = cli("download", "titanic", env=env, code=1)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_every_form_of_credentials_of_the_client_works(server, cli, tmp_path):
    home, limits = tmp_path / "home", ("kaggle", "limits", "titanic")
    cli(*limits, env={"KAGGLE_API_TOKEN": TOKEN})
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "kaggle.json").write_text(json.dumps({"username": "ada", "key": KEY}))
    (folder / "kaggle.json").chmod(0o644)
    done = cli(*limits, env={"KAGGLE_CONFIG_DIR": str(folder)})
    assert "Your Kaggle API key is readable by other users" in done.stderr
    (home / ".kaggle").mkdir()
    (home / ".kaggle/access_token").write_text(TOKEN)
    assert cli(*limits, env={}).stdout == "submissions today: 0, left: 10\n"


def test_rules_that_are_not_accepted_name_the_page_to_open(submission, server, cli):
    server.rules_accepted = False
    page = "accept its rules at https://www.kaggle.com/competitions/titanic/rules"
    assert page in cli("download", "titanic", "--output", "data", code=1).stderr
    assert page in cli("submit", "titanic", submission(), "-m", "x", code=1).stderr
    assert "StartSubmissionUpload" not in server.calls


def test_an_unknown_competition_and_no_network_are_one_line_each(server, cli):
    done = cli("kaggle", "files", "titanik", code=1)
    assert "Kaggle knows no 'titanik' (404: Competition not found)" in done.stderr
    # The endpoint of Kaggle itself, which the proxy of this test makes unreachable.
    env = PASSWORD | {"KAGGLE_API_ENVIRONMENT": "PROD"}
    done = cli("kaggle", "files", "titanic", env=env, code=1)
    assert done.stderr == "Error: no answer from Kaggle (ProxyError); is there a network?\n"
