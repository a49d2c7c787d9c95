"""Studies: honest comparisons, pruning, failures, kills, and several workers on one storage."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlx_kaggle.tuning.outcome import Comparison
from mlx_trainer import ConfigError

needs_optuna = pytest.mark.skipif(
    find_spec("optuna") is None, reason="optuna is an optional extra of mlx-kaggle"
)
SPACE = """
options.trees.max_iter: {low: 5, high: 40}
options.trees.learning_rate: {low: 1e-2, high: 3e-1, log: true}
options.linear.alpha: {low: 0.1, high: 300, log: true}
"""


@pytest.fixture
def small(tmp_path, write_csv, passengers) -> list[object]:
    """The arguments of train for two cheap members."""
    rows = passengers(120)
    flipped = np.random.default_rng(1).random(120) < 0.2  # so that settings matter
    rows["Survived"] = (np.array(rows["Survived"]) ^ flipped).tolist()
    return ["--train", write_csv("train.csv", rows), "--target", "Survived",
            "--members", "trees,linear", "--folds", 3, "--metric", "log_loss",
            "--set", "blend.generate=none", "--set", "blend.method=mean"]  # fmt: skip


@pytest.fixture
def tune(tmp_path, small) -> list[object]:
    """The arguments of a study of these members."""
    (tmp_path / "space.yaml").write_text(SPACE)
    return ["tune", *small, "--space", "space.yaml"]


def trials_of(folder: Path) -> list[tuple]:
    """Return place, state, score and settings of all trials of a finished study."""
    trials = json.loads((folder / "tune.json").read_text())["all_trials"]
    return [(t["place"], t["state"], t["value"], t["folds"], t["params"]) for t in trials]


@needs_optuna
def test_the_first_trial_is_what_train_does(run_cli, tune, small):
    trained = json.loads(run_cli("train", *small, "--output", "run", "--json").stdout)
    found = run_cli(*tune, "--output", "study", "--trials", 1, "--holdout", 0, "--json")
    outcome = json.loads(found.stdout)
    assert outcome["untuned_score"] == trained["score"]
    assert outcome["held_out"] is None
    assert outcome["best"]["place"] == 0


@needs_optuna
def test_a_loss_is_minimized_pruned_and_compared_on_rows_that_no_trial_saw(run_cli, tune, tmp_path):
    outcome = json.loads(run_cli(*tune, "--output", "study", "--trials", 14, "--json").stdout)
    trials = outcome["all_trials"]
    assert [each["place"] for each in trials] == list(range(14))
    assert trials[0]["params"] == {}
    complete = [each for each in trials if each["state"] == "complete"]
    assert outcome["best"]["value"] == min(each["value"] for each in complete)
    assert outcome["best"]["value"] < outcome["untuned_score"]
    pruned = [each for each in trials if each["state"] == "pruned"]
    assert pruned
    assert all(each["folds"] == 2 and each["value"] is None for each in pruned)
    assert all(each["place"] >= 5 for each in pruned)
    held = outcome["held_out"]
    assert held["rows"] == 24
    assert held["gain"] == pytest.approx(held["untuned"] - held["tuned"])
    assert held["standard_error"] > 0
    assert sum(outcome["importance"].values()) == pytest.approx(1)

    page = (tmp_path / "study/tune.html").read_text()
    assert held["verdict"].removeprefix("the tuned one is ") in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<tr") > 14
    assert not (tmp_path / "study/trial").exists()
    run_cli("train", "--config", "study/best.yaml", "--train", "train.csv", "--output", "run")
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    best = outcome["best"]["params"]
    assert config["options"]["trees"]["max_iter"] == best["options.trees.max_iter"]
    assert config["members"] == ["linear", "trees"]


@needs_optuna
def test_killed_twice_and_resumed_is_as_if_never_killed(run_cli, start_cli, tune, tmp_path):
    run_cli(*tune, "--output", "whole", "--trials", 7)
    commands = [
        (*tune, "--output", "killed", "--trials", 7),
        ("tune", "--resume", "--output", "killed"),
    ]
    for wanted, command in zip((1, 4), commands, strict=True):
        killed = start_cli(*command)
        wait_until(lambda n=wanted: finished(sqlite(tmp_path / "killed")) >= n, killed)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/tune.json").exists()
    run_cli("tune", "--resume", "--output", "killed")
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of an empty database of a server of our own; skip where there is none."""
    pytest.importorskip("psycopg", reason="no driver of PostgreSQL: pip install 'psycopg[binary]'")
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if found := shutil.which("initdb"):
        places.insert(0, Path(found).parent)
    if not places:
        pytest.skip("no PostgreSQL server on this machine (initdb and pg_ctl)")
    # The server refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="mlx-kaggle-postgresql-"))
    if user:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
    data, port = folder / "data", free_port()

    def run(name: str, *arguments: object) -> None:
        with (folder / "log").open("a") as log:
            command = [str(places[0] / name), *map(str, arguments)]
            options = {"stdout": log, "stderr": log, "cwd": folder, "user": user}
            subprocess.run(command, check=True, timeout=600, **options)

    try:
        run("initdb", "--auth=trust", "--username=tuner", "--no-sync", "-D", data)
        options = f"-p {port} -h 127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        run("pg_ctl", "start", "-w", "-D", data, "-l", folder / "server.log", "-o", options)
        yield f"postgresql+psycopg://tuner:secret@127.0.0.1:{port}/postgres"
    finally:
        if data.is_dir():
            run("pg_ctl", "stop", "-m", "immediate", "-D", data)
        shutil.rmtree(folder)


@needs_optuna
@pytest.mark.parametrize("storage", ["sqlite", "postgresql"])
def test_two_workers_share_a_study_also_when_both_are_killed(
    storage, run_cli, start_cli, tune, tmp_path, request
):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    if storage == "postgresql":
        url = request.getfixturevalue("postgresql")
    shared = ("--storage", url, "--study", "both")
    many = [start_cli(*tune, *shared, "--output", name, "--trials", 999) for name in "ab"]
    wait_until(lambda: len(counts := by_worker(url)) == 2 and min(counts.values()) >= 2, *many)
    for each in many:
        each.send_signal(signal.SIGKILL)
        each.communicate()
    trials = finished(url) + 3
    resumed = [
        start_cli("tune", "--resume", "--output", name, "--storage", url, "--trials", trials)
        for name in "ab"
    ]
    for each in resumed:
        _, log = each.communicate()
        assert each.returncode == 0, (log, states(url))
    found = [json.loads((tmp_path / name / "tune.json").read_text()) for name in "ab"]
    assert [each["place"] for each in found[0]["all_trials"]] == list(range(trials))
    assert found[0] == found[1]
    assert len({each["worker"] for each in found[0]["all_trials"]}) == 2
    for name in "ab":  # a storage may have a password
        for file in (tmp_path / name).iterdir():
            assert b"secret" not in file.read_bytes(), file
    refused = run_cli("tune", "--resume", "--output", "a", code=2)
    assert "give --storage" in refused.stderr
    other = run_cli(*tune, *shared, "--output", "c", "--seed", 3, code=2)
    assert "the study 'both' exists, but seed was 0 there, and is 3" in other.stderr


@needs_optuna
def test_tables_that_another_worker_fills_at_this_moment_are_waited_for(tmp_path, monkeypatch):
    from sqlalchemy.exc import IntegrityError

    from mlx_kaggle.tuning import study as studies

    text = "(sqlite3.IntegrityError) UNIQUE constraint failed: alembic_version.version_num"
    refusals, storage = [IntegrityError("INSERT", {}, Exception(text))], studies.RDBStorage

    def open_once_refused(*arguments, **options):
        if refusals:
            raise refusals.pop()
        return storage(*arguments, **options)

    monkeypatch.setattr(studies, "RDBStorage", open_once_refused)
    monkeypatch.setattr(studies, "WAIT", 0)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with studies.open_study(url, "shared", True, '{"metric": "f1"}', 5) as study:
        assert study.user_attrs["described"] == '{"metric": "f1"}'
    with (
        pytest.raises(ConfigError, match="metric was 'f1' there, and is 'mae'"),
        studies.open_study(url, "shared", True, '{"metric": "mae"}', 5),
    ):
        pass


@needs_optuna
def test_a_trial_whose_worker_was_killed_before_it_signed_is_repeated(tmp_path, monkeypatch):
    import optuna

    from mlx_kaggle.tuning import study as studies

    monkeypatch.setattr(studies, "GRACE", 1)
    monkeypatch.setattr(studies, "WAIT", 0.01)
    with studies.open_study(f"sqlite:///{tmp_path / 's.db'}", "s", True, "{}", folds=3) as study:
        running = optuna.create_trial(state=optuna.trial.TrialState.RUNNING)
        study.add_trial(running)  # of a worker that is gone: no signature, no heartbeat

        def objective(trial):
            trial.set_user_attr(studies.WORKER, "me")
            place = studies.place_of(study, trial)
            trial.set_user_attr(studies.PLACE, place)
            return float(place)

        waited = []
        studies.run_trials(study, objective, 3, None, (), lambda: None, waited.append)
        assert {place: each.value for place, each in studies.counted(study).items()} == {
            0: 0.0, 1: 1.0, 2: 2.0}  # fmt: skip
        assert waited == [1]
        assert len(study.trials) == 4


@needs_optuna
def test_a_trial_that_fails_is_counted_with_its_reason(
    run_cli, write_csv, passengers, tiny_flags, tmp_path
):
    (tmp_path / "space.yaml").write_text(
        "training.soup: [none, greedy]\ntraining.patience: [0, 2]\n"
        "head.pooling: [mean, cls]\nencoder.num_hidden_layers: {low: 1, high: 2}\n"
    )
    arguments = ("--train", write_csv("train.csv", passengers(60)), "--target", "Survived",
                 "--folds", 2, *tiny_flags, "--set", "training.epochs=1")  # fmt: skip
    found = run_cli("tune", *arguments, "--space", "space.yaml", "--trials", 8, "--holdout", 0,
                    "--json", "--output", "study")  # fmt: skip
    outcome = json.loads(found.stdout)
    failed = [each for each in outcome["all_trials"] if each["state"] == "failed"]
    assert failed
    assert outcome["trials"]["failed"] == len(failed)
    for each in failed:
        assert each["params"]["training.soup"] == "greedy"
        assert each["params"]["training.patience"] == 2
        assert "exclude each other" in each["reason"]
    assert len(outcome["all_trials"]) == 8


@needs_optuna
def test_a_failing_untuned_configuration_ends_the_study(
    run_cli, write_csv, passengers, tiny_flags, tmp_path
):
    (tmp_path / "space.yaml").write_text("head.pooling: [mean, cls]\n")
    found = run_cli("tune", "--train", write_csv("train.csv", passengers(40)), "--target",
                    "Survived", "--folds", 2, *tiny_flags, "--set", "training.learning_rate=1e30",
                    "--space", "space.yaml", "--output", "study", code=1)  # fmt: skip
    assert "the training diverged" in found.stderr
    assert not (tmp_path / "study/tune.json").exists()


@needs_optuna
@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ("training.epochs: {low: 1, high: 3}", "training.epochs: only the member text reads it"),
        ("options.tres.max_iter: [1, 2]", "'tres' is no member of this study; these are: linear, "
         "trees"),
        ("options.forest.max_features: [0.1, 0.2]", "'forest' is no member of this study"),
        ("options.trees.max_dept: [1, 2]", "trees has no such option; did you mean 'max_depth'?"),
        ("options.trees.max_iter: {low: 0, high: 3}",
         "options: trees.max_iter must be at least 1, got 0"),
        ("options.trees.max_iter: {low: 1.5, high: 3}", "low must be a whole number, got 1.5"),
        ("options.trees.max_iter: {low: 4, high: 3}", "low must be below high, got 4 and 3"),
        ("options.trees.max_iter: {low: 1, hihg: 3}", "unknown 'hihg'; did you mean 'high'?"),
        ("options.trees.max_iter: {low: 1}", "high must be a whole number, got None"),
        ("options.trees.max_iter: 3", "must be a list, or low and high, got 3"),
        ("options.trees.max_iter: [3]", "must list two or more different values, got [3]"),
        ("options.trees.max_iter: {low: 1, high: 9, step: 20}",
         "step must be above 0 and at most high - low, got 20"),
        ("options.trees.l2_regularization: {low: 0, high: 1, log: true}",
         "log needs low above 0, got 0.0"),
        ("blend.metod: [mean, stack]", "unknown key; did you mean 'blend.method'?"),
        ("blend.method: [mean, stak]", "unknown value 'stak'; did you mean 'stack'?"),
        ("blend.method: {low: 1, high: 2}", "must be a list, got"),
        ("folds: [3, 5]", "folds: cannot be tuned: all trials must share rows, folds and score"),
        ("data.metric: [f1, accuracy]", "data.metric: cannot be tuned"),
        ("[1, 2]", "must contain keys with lists or ranges"),
        ("a: [", "while parsing"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_an_error_before_the_first_trial(space, problem, run_cli, small, tmp_path):
    (tmp_path / "wrong.yaml").write_text(space)
    refused = run_cli("tune", *small, "--space", "wrong.yaml", "--output", "study", code=2)
    assert "Error: wrong.yaml: " in refused.stderr
    assert problem in refused.stderr
    assert not (tmp_path / "study").exists()


@needs_optuna
def test_the_default_space_has_the_options_that_are_not_set(run_cli, small, tmp_path):
    fixed = ("--set", "options.trees.max_depth=4")
    shown = run_cli("tune", *small, *fixed, "--output", "study", "--dry-run").stdout
    assert "options.trees.max_leaf_nodes     4 to 32, log" in shown
    assert "options.linear.alpha" in shown
    assert "options.trees.max_depth" not in shown
    assert not (tmp_path / "study").exists()
    text = ("--members", "text", "--set", "training.epochs=7")
    shown = run_cli("tune", *small[:4], *text, "--output", "study", "--dry-run").stdout
    for key in ("encoder.num_hidden_layers", "encoder.hidden_size", "head.pooling", "text.style",
                "training.learning_rate", "training.layer_decay", "text.max_tokens"):  # fmt: skip
        assert f"  {key} " in shown
    assert "training.epochs" not in shown


@needs_optuna
def test_wrong_usage_and_storages_are_named(run_cli, tune, tmp_path):
    refused = run_cli(*tune, "--output", "study", "--storage", "nonsense", code=2)
    assert "--storage must be a URL such as sqlite:///study.db" in refused.stderr
    closed = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/none"
    if find_spec("psycopg"):
        refused = run_cli(*tune, "--output", "other", "--storage", closed, code=1)
        assert "me:***@127.0.0.1" in refused.stderr
        assert "secret" not in refused.stderr
    refused = run_cli("tune", "--resume", "--output", "study", "--seed", 3, code=2)
    assert "--resume takes everything from --output; omit --seed" in refused.stderr
    refused = run_cli("tune", "--resume", "--output", "nothing", code=1)
    assert "nothing is not a run" in refused.stderr


def test_without_optuna_the_command_that_installs_it_is_named(run_cli, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused = run_cli("tune", *small, "--output", "study", code=1)
    assert refused.stderr.strip() == "Error: tune needs Optuna: pip install 'mlx-kaggle[tune]'"


def test_a_gain_within_two_standard_errors_is_noise():
    line = Comparison(178, 0.82, 0.824, 0.004, 0.011).line()
    assert line == ("the tuned one is better by 0.0040 +- 0.0110 on 178 rows not used for tuning: "
                    "within noise")  # fmt: skip
    assert "WORSE by 0.0300" in (line := Comparison(178, 0.85, 0.82, -0.03, 0.011).line())
    assert "more than two standard errors" in line
    assert Comparison(178, 0.8, 0.8, 0.0, 0.01).line() == (
        "both are equal (difference 0.0000 +- 0.0100) on 178 rows not used for tuning"
    )


def test_the_error_of_a_difference_of_means_is_that_of_the_paired_rows():
    from mlx_kaggle.tuning.trial import paired_error

    class Scored:
        def __init__(self, values):
            self.rows = self.values = values

        def score(self, rows):
            return self.values[rows].mean()

    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 100))
    found = paired_error(Scored(first), Scored(second), in_time=False, seed=0)  # type: ignore[arg-type]
    assert found == pytest.approx((second - first).std(ddof=1) / 10)


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def finished(url: str) -> int:
    return sum(by_worker(url).values())


def by_worker(url: str) -> dict[str, int]:
    """Count the finished trials in a storage by worker; {} until there is a study."""
    import sqlalchemy
    from sqlalchemy.exc import OperationalError, ProgrammingError

    count = sqlalchemy.text(
        "select a.value_json, count(*) from trials t join trial_user_attributes a "
        "on a.trial_id = t.trial_id where a.key = 'worker' and t.state in ('COMPLETE', 'PRUNED') "
        "group by a.value_json"
    )
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).exists():
        return {}
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return dict(tuple(row) for row in connection.execute(count))
    except (OperationalError, ProgrammingError):
        return {}  # the tables are being made
    finally:
        engine.dispose()


def states(url: str) -> list[tuple]:
    """Return state and attributes of the trials of the study `both`, to explain a failure."""
    import optuna

    trials = optuna.load_study(study_name="both", storage=url).get_trials(deepcopy=False)
    return [(t.number, t.state.name, t.datetime_start, t.user_attrs.get("worker"),
             t.user_attrs.get("place"), t.user_attrs.get("repeats")) for t in trials]  # fmt: skip


def wait_until(condition, *processes: subprocess.Popen) -> None:
    """Wait for something that processes do; fail if one of them ends."""
    while not condition():
        for each in processes:
            assert each.poll() is None, each.communicate()
        time.sleep(0.2)


def free_port() -> int:
    import socket

    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return each.getsockname()[1]
