"""Run folders: nothing of others is deleted, nothing that changed or is lost goes unnoticed."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_kaggle import DataError, RunError
from mlx_kaggle.commands.demo import write_demo_data
from mlx_kaggle.members.model import ENCODER, REQUIRED
from mlx_kaggle.prediction.predict import predict_run
from mlx_kaggle.runs.folder import create_run, resume_run, train_run
from mlx_kaggle.settings.config import resolve_config
from mlx_trainer import ChangedFileError, write_manifest

MEMBER = "members/fold-1-seed-0"
TINY = [
    *("encoder.hidden_size=32", "encoder.num_hidden_layers=1", "encoder.num_attention_heads=2"),
    *("encoder.intermediate_size=32", "encoder.vocab_size=300", "head.feature_size=8"),
    *("text.max_tokens=64", "members=[text]", "blend={generate: none, method: rank_mean}"),
]


def settings(*overrides: str):
    """The configuration of a small run of two folds, with paths below the current folder."""
    flags = {"data.train": "train.csv", "data.target": "y", "folds": 2}
    return resolve_config(None, None, flags, [*TINY, "training.epochs=1", *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with tables and a finished run, made once."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [f"{i},{i % 7},{('red', 'blue')[i % 2]}" for i in range(52)]
    answers = [f"{row},{i % 2}" for i, row in enumerate(rows[:40])]
    (folder / "train.csv").write_text("\n".join(["id,amount,colour,y", *answers]) + "\n")
    (folder / "test.csv").write_text("\n".join(["id,amount,colour", *rows[40:]]) + "\n")
    with contextlib.chdir(folder):
        config = settings()
        train_run(config, lambda: create_run(Path("run"), config, False))
    return folder


@pytest.fixture
def tables(finished, tmp_path, monkeypatch) -> Path:
    """The current folder, with the tables."""
    for name in ("train.csv", "test.csv"):
        shutil.copy(finished / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(finished, tables) -> Path:
    """A copy of the finished run, in the current folder."""
    shutil.copytree(finished / "run", "run")
    return Path("run")


def predict(run: Path, output: str = "out.csv") -> list[str]:
    return predict_run(run, "test.csv", Path(output)).lines()


def test_overwriting_keeps_what_no_run_wrote(run):
    theirs = [".git/HEAD", "thesis.docx", "members/notes.txt", f"{MEMBER}/.DS_Store"]
    for name in theirs:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
    ours = {path for path in run.rglob("*") if path.is_file()} - {run / name for name in theirs}
    created = create_run(run, settings(), overwrite=True)
    assert [(run / name).read_text() for name in theirs] == theirs
    new = {run / name for name in ("run.json", "config.yaml", "env.json")}
    assert {path for path in ours if path.exists()} == new
    assert len(created.kept) == 4


def test_a_folder_with_a_configuration_of_others_is_not_touched(tables):
    project = Path("project")
    (project / "src").mkdir(parents=True)
    (project / "config.yaml").write_text("epochs: 3")
    with pytest.raises(FileExistsError, match="and not a run"):
        create_run(project, settings(), overwrite=True)
    assert (project / "config.yaml").read_text() == "epochs: 3"


def test_a_run_that_holds_its_own_table_is_not_replaced(run):
    inside = Path(shutil.move("train.csv", run / "train.csv"))
    flags = {"data.train": str(inside), "data.target": "y"}
    with pytest.raises(FileExistsError, match=r"train.csv is an input inside"):
        create_run(run, resolve_config(None, None, flags, []), overwrite=True)
    assert inside.exists()
    assert (run / "summary.json").exists()


def test_resume_refuses_a_table_in_another_order(run):
    before = (run / "summary.json").read_text()
    table = Path("train.csv")
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]) + "\n")
    with pytest.raises(ChangedFileError) as error:
        resume_run(run)
    assert str(error.value).startswith("train.csv (data.train) was changed since")
    assert (run / "summary.json").read_text() == before


def test_resume_refuses_another_test_table_and_another_encoder(tables, tiny_modernbert):
    config = settings(f"encoder.path={tiny_modernbert}")
    create_run(Path("run"), config, False).close()
    weights = Path(tiny_modernbert) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ChangedFileError, match=r"model.safetensors \(encoder.path\) was changed"):
        resume_run(Path("run"))
    create_run(Path("run"), config, True).close()
    Path("test.csv").unlink()
    with pytest.raises(ChangedFileError, match=r"test.csv \(data.test\) was changed since"):
        resume_run(Path("run"))


def test_a_resumed_run_trains_only_what_is_lost(run):
    kept = (run / "members/fold-0-seed-0/member.json").stat().st_mtime_ns
    before = json.loads((run / "summary.json").read_text())["scores"]
    shutil.rmtree(run / MEMBER)
    left = run / "members/fold-0-seed-0" / "checkpoints" / "step-00000003"
    left.mkdir(parents=True)
    (left / "state.json").write_text("{}")
    temporary = run / MEMBER.replace("1", "0") / ".head.99999999.safetensors"
    temporary.touch()
    resumed, config = resume_run(run)
    train_run(config, lambda: resumed, resume=True)
    assert json.loads((run / "summary.json").read_text())["scores"] == before
    assert (run / "members/fold-0-seed-0/member.json").stat().st_mtime_ns == kept
    assert not left.parent.exists()
    assert not temporary.exists()


def test_predict_wants_every_model_and_ignores_foreign_names(run):
    (run / "members/.DS_Store").touch()
    (run / "members/.ipynb_checkpoints").mkdir()
    (run / "members/fold-9-seed-0").mkdir()
    predict(run)
    shutil.rmtree(run / MEMBER)
    with pytest.raises(RunError) as error:
        predict(run)
    assert str(error.value) == (
        f"{run / MEMBER}: this model is missing, or its training did not finish; restore it, or "
        f"train it: train --resume --output {run}"
    )


@pytest.mark.parametrize(
    "name", ["encoder/model.safetensors", "head.safetensors", "member.json", "encoder/config.json"]
)
def test_predict_refuses_a_flipped_bit(run, name):
    path = run / MEMBER / name
    damaged = bytearray(path.read_bytes())
    damaged[-2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ChangedFileError, match=f"{path} is damaged or was changed"):
        predict(run)
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("name", ["competition.json", "train_rows.npy"])
def test_predict_refuses_a_changed_file_of_the_run(run, name):
    data = (run / name).read_bytes()
    (run / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ChangedFileError, match=f"{run / name} is damaged or was changed"):
        predict(run)


def test_predict_refuses_a_configuration_that_asks_for_fewer_models(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("folds: 2", "folds: 0"))
    with pytest.raises(ChangedFileError, match="folds was 2, and is 0"):
        predict(run)


def test_predict_refuses_an_emptied_manifest(run):
    write_manifest(run / MEMBER, [])
    with pytest.raises(ChangedFileError, match=r"does not list head\.safetensors"):
        predict(run)


def test_a_prediction_that_is_not_finite_names_model_and_row(run):
    path = run / MEMBER / "head.safetensors"
    weights = {name: array * float("nan") for name, array in mx.load(str(path)).items()}
    mx.save_safetensors(str(path), weights)
    write_manifest(run / MEMBER, (*REQUIRED, *ENCODER))
    with pytest.raises(RunError) as error:
        predict(run)
    assert str(error.value) == (
        f"{run / MEMBER}: its prediction of row 2 of test.csv is not a finite "
        "number (12 such rows); nothing was written. Train this model again, at a lower rate if "
        "it diverged"
    )
    assert not Path("out.csv").exists()


def test_a_submission_is_written_through_a_link_and_never_over_an_input(run):
    link, real = Path("link.csv"), Path("real.csv")
    link.symlink_to(real)
    predict(run, "link.csv")
    assert link.is_symlink()
    assert len(real.read_text().splitlines()) == 13
    for path in map(Path, ("test.csv", "train.csv")):
        before = path.read_text()
        with pytest.raises(RunError, match="is an input of this command or its run"):
            predict(run, path.name)
        assert path.read_text() == before
    with pytest.raises(RunError, match=r"run/config.yaml: is in the run run; choose an --output"):
        predict(run, "run/config.yaml")


def test_an_output_that_cannot_be_written_is_found_before_predicting(run):
    shutil.rmtree(run / "members/fold-0-seed-0/encoder")  # which predicting would find
    with pytest.raises(OSError, match="File name too long"):
        predict(run, "x" * 300)


def test_the_demo_writes_over_no_table_of_others(tmp_path):
    (tmp_path / "train.csv").write_text("mine")
    with pytest.raises(DataError, match=r"train.csv: not a file of the demo"):
        write_demo_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
    write_demo_data(tmp_path / "demo")
    write_demo_data(tmp_path / "demo")
    (tmp_path / "mine" / "run").mkdir(parents=True)
    with pytest.raises(DataError, match=r"run: not a file of the demo"):
        write_demo_data(tmp_path / "mine")


LONG = [
    *("train", "--output", "run", "--train", "train.csv", "--target", "y"),
    *("--set", "training.batch_size=1"),
    *("--set", "training.epochs=400", "--set", "training.checkpoint_seconds=0.001"),
    *(part for setting in TINY for part in ("--set", setting)),
]
CHECKPOINTS = Path("run/members/fold-0-seed-0/checkpoints")


def until(process: subprocess.Popen, path: Path) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint_and_says_so(tables, start_cli, number):
    process = start_cli(*LONG)
    until(process, CHECKPOINTS / "latest")
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    updates = int((CHECKPOINTS / "latest").read_text().split("-")[1])
    assert errors.splitlines()[-1] == (
        f"Interrupted; --resume continues the run. ({signal.Signals(number).name}; a "
        f"checkpoint of update {updates} is in {CHECKPOINTS})"
    )


def test_two_trainings_do_not_share_a_run_folder(tables, start_cli, run_cli):
    process = start_cli(*LONG)
    until(process, CHECKPOINTS / "latest")
    for again in (["train", "--output", "run", "--resume"], [*LONG, "--overwrite"]):
        errors = run_cli(*again, code=1).stderr
        assert errors.endswith("Error: run: another process is training in it\n")
    assert process.poll() is None


@pytest.mark.slow
def test_a_training_outlives_its_reader(tables, start_cli):
    process = start_cli(*LONG, "--set", "training.epochs=1")
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 0
    assert Path("run/report.html").exists()
