import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from mlx_trainer import CHECKPOINT_FILES, ChangedFileError, RunFolder, RunKind
from mlx_trainer.run import PLAIN


@dataclass(frozen=True)
class Config:
    epochs: int = 3


def test_a_new_run_holds_its_configuration_and_environment(tmp_path):
    run = RunFolder.create(tmp_path / "run", Config())
    assert (run.path / "config.yaml").read_text() == "epochs: 3\n"
    environment = json.loads((run.path / "env.json").read_text())
    assert environment.keys() == {
        "python",
        "platform",
        "device",
        "cpu_count",
        "memory_bytes",
        "git_commit",
        "packages",
    }
    assert environment["packages"]["numpy"] == np.__version__


def test_a_run_that_was_killed_while_it_was_made_can_be_opened(tmp_path, monkeypatch):
    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_trainer.run_files.describe_environment", killed)
    with pytest.raises(KeyboardInterrupt):
        RunFolder.create(tmp_path / "run", Config())
    assert RunFolder.open(tmp_path / "run").metrics() == []


def test_logged_lines_come_back_with_a_time(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    assert run.metrics() == []
    run.log({"updates": 1, "loss": 0.5, "bad": math.nan, "nested": [math.inf, {"a": 1}]})
    (entry,) = RunFolder.open(run.path).metrics()
    assert entry.pop("time") > 0
    assert entry == {"updates": 1, "loss": 0.5, "bad": None, "nested": [None, {"a": 1}]}


def test_resuming_drops_what_will_be_logged_again_and_a_half_line(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    run.log({"note": "start"})
    for updates in range(1, 5):
        run.log({"updates": updates})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"updates": 5, "lo')
    run.close()
    resumed = RunFolder.resume(run.path)
    resumed.truncate_after(2)
    resumed.log({"updates": 3})
    assert [entry.get("updates") for entry in resumed.metrics()] == [None, 1, 2, 3]


def test_lines_of_another_member_are_kept_when_one_is_cut_back(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"a": 1})
    for member in ("one", "two"):
        for updates in (1, 2, 3):
            run.log({"member": member, "updates": updates})
    run.truncate_after(1, member="two")
    kept = [(entry["member"], entry["updates"]) for entry in run.metrics()]
    assert kept == [("one", 1), ("one", 2), ("one", 3), ("two", 1)]


def test_reading_a_run_that_is_being_written_changes_nothing(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as run:
        run.log({"updates": 1})
        before = (run.path / "metrics.jsonl").read_text() + '{"updates": 2, "lo'
        (run.path / "metrics.jsonl").write_text(before)
        assert [entry["updates"] for entry in RunFolder.open(run.path).metrics()] == [1]
        assert (run.path / "metrics.jsonl").read_text() == before


def test_an_existing_run_is_replaced_only_when_told(tmp_path):
    with RunFolder.create(tmp_path / "run", {"a": 1}) as run:
        run.log({"updates": 1})
    with pytest.raises(FileExistsError) as error:
        RunFolder.create(run.path, {"a": 2})
    assert str(error.value) == (
        f"{run.path} is a run: resume or overwrite it (--resume, --overwrite), or choose "
        "another folder"
    )
    again = RunFolder.create(run.path, {"a": 2}, overwrite=True)
    assert again.metrics() == []
    assert (run.path / "config.yaml").read_text() == "a: 2\n"


def test_replacing_a_run_deletes_what_runs_write_and_nothing_else(tmp_path):
    kind = RunKind("tool", ("model/weights.bin", *(f"checkpoints/{n}" for n in CHECKPOINT_FILES)))
    RunFolder.create(tmp_path, {"a": 1}, kind=kind).close()
    ours = ["model/weights.bin", "model/.weights.99999999.bin", "checkpoints/latest",
            "checkpoints/step-00000012/state.json"]  # fmt: skip
    theirs = ["thesis.docx", ".git/HEAD", "src/main.py", "model/notes.txt",
              "checkpoints/step-by-step.md", "model/.weights.md.bin"]  # fmt: skip
    for name in ours + theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    run = RunFolder.create(tmp_path, {"a": 2}, overwrite=True, kind=kind)
    assert {name for name in ours if (tmp_path / name).exists()} == set()
    assert not (tmp_path / "checkpoints/step-00000012").exists()
    assert {name: (tmp_path / name).read_text() for name in theirs} == {
        name: name for name in theirs
    }
    assert sorted(run.kept) == sorted(tmp_path / name for name in theirs)


def test_deleting_a_run_deletes_its_folder_or_nothing(tmp_path):
    kind = RunKind("tool", ("model/*.bin",))
    for name in ("one", "two"):
        RunFolder.create(tmp_path / name, {"a": 1}, kind=kind).close()
        (tmp_path / name / "model").mkdir()
        (tmp_path / name / "model/weights.bin").write_text("ours")
        (tmp_path / name / "model/.weights.99999999.bin").write_text("of a killed process")
    (tmp_path / "two/model/elsewhere").symlink_to(tmp_path / "one")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="that no run wrote: model/elsewhere; nothing was"):
        RunFolder.delete(tmp_path / "two", kind)
    with pytest.raises(FileNotFoundError, match="is a run of tool: nothing was deleted"):
        RunFolder.delete(tmp_path / "one")
    RunFolder.delete(tmp_path / "one", kind, only_check=True)
    with RunFolder.resume(tmp_path / "two", kind=kind), pytest.raises(BlockingIOError):
        RunFolder.delete(tmp_path / "two", kind)
    (tmp_path / "two/model/.weights.99999999.bin").touch()  # `resume` swept it
    assert sorted(tmp_path.rglob("*")) == before
    RunFolder.delete(tmp_path / "one", kind)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["two"]


@pytest.mark.parametrize("marker", [None, "other"])
def test_a_folder_that_is_no_run_of_the_tool_is_not_touched(tmp_path, marker):
    if marker:
        RunFolder.create(tmp_path, {}, kind=RunKind("other", ("thesis.txt",))).close()
    else:
        (tmp_path / "config.yaml").write_text("epochs: 3")
    (tmp_path / "thesis.txt").write_text("dear")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError) as error:
        RunFolder.create(tmp_path, {}, overwrite=True)
    problem = "is a run of other" if marker else "is not empty and not a run (no run.json)"
    assert str(error.value) == f"{tmp_path} {problem}: nothing was changed; choose another folder"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(FileNotFoundError):
        RunFolder.open(tmp_path, RunKind("mine"))


def test_a_run_that_holds_an_input_is_not_replaced(tmp_path):
    RunFolder.create(tmp_path / "run", {}).close()
    table = tmp_path / "run" / "train.csv"
    table.write_text("a,b")
    with pytest.raises(FileExistsError) as error:
        RunFolder.create(tmp_path / "run", {}, overwrite=True, inputs={"data.train": table})
    assert str(error.value) == (
        f"{table} is an input inside {tmp_path / 'run'}, which would be replaced: nothing was "
        "changed; move it, or choose another folder"
    )
    assert RunFolder.open(tmp_path / "run").path == tmp_path / "run"


def test_a_linked_run_folder_works_like_the_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    RunFolder.create(tmp_path / "run", {"a": 1}).close()
    RunFolder.create(tmp_path / "run", {"a": 2}, overwrite=True).close()
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "config.yaml").read_text() == "a: 2\n"


@pytest.mark.parametrize("left", [[], ["run.json"], [".run.99999999.json"], [".DS_Store"]])
def test_what_a_killed_start_left_is_no_obstacle(tmp_path, left):
    RunFolder.create(tmp_path / "other", {"a": 1}).close()
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_bytes((tmp_path / "other/run.json").read_bytes())
    RunFolder.create(tmp_path / "run", {"a": 2}).close()
    assert RunFolder.resume(tmp_path / "run").metrics() == []


def test_a_run_is_written_by_one_process_at_a_time(tmp_path):
    with RunFolder.create(tmp_path / "run", {}):
        for write in (RunFolder.resume, lambda path: RunFolder.create(path, {}, overwrite=True)):
            with pytest.raises(BlockingIOError) as error:
                write(tmp_path / "run")
            assert str(error.value) == f"{tmp_path / 'run'}: another process is training in it"
    RunFolder.resume(tmp_path / "run").close()


def test_resume_refuses_a_changed_input_and_names_it(tmp_path):
    table, encoder = tmp_path / "train.csv", tmp_path / "encoder"
    table.write_text("a,b\n1,2\n")
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    config = {"data": {"train": str(table)}, "encoder": str(encoder)}
    inputs = {"data.train": table, "encoder": encoder}
    RunFolder.create(tmp_path / "run", config, inputs=inputs).close()
    RunFolder.resume(tmp_path / "run", inputs=inputs).close()

    def refusal(**other):
        with pytest.raises(ChangedFileError) as error:
            RunFolder.resume(tmp_path / "run", inputs=inputs | other)
        return str(error.value)

    table.write_text("a,b\n2,1\n")
    ending = f"was changed since the run in {tmp_path / 'run'} started; restore the old " \
        "file, or start another run"  # fmt: skip
    assert refusal() == f"{table} (data.train) {ending}"
    table.write_text("a,b\n1,2\n")
    (encoder / "config.json").write_text('{"hidden_size": 8}')
    assert refusal() == f"{encoder / 'config.json'} (encoder) {ending}"
    (encoder / "config.json").write_text("{}")
    (encoder / "more.json").write_text("{}")
    assert refusal() == f"{encoder / 'more.json'} (encoder) {ending}"
    (encoder / "more.json").unlink()
    assert refusal(test=table) == f"{table} (test) {ending}"


def test_resume_refuses_a_changed_setting_but_not_a_moved_input(tmp_path):
    table = tmp_path / "train.csv"
    table.write_text("a,b\n")
    config = {"data": {"train": str(table), "folds": 5}}
    run = RunFolder.create(tmp_path / "run", config, inputs={"data.train": table})
    run.close()
    moved = table.rename(tmp_path / "moved.csv")
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("train.csv", "moved.csv"))
    RunFolder.resume(run.path, inputs={"data.train": moved}).close()
    path.write_text(path.read_text().replace("folds: 5", "folds: 3"))
    with pytest.raises(ChangedFileError) as error:
        RunFolder.resume(run.path, inputs={"data.train": moved})
    assert str(error.value) == (
        f"{path} was changed since the run started: data.folds was 5, and is 3; undo the change, "
        "or start another run"
    )
    run.replace_config({"data": {"train": "moved.csv", "folds": 3}})
    RunFolder.resume(run.path, inputs={"data.train": moved}).close()


def test_a_name_that_is_too_long_is_refused_at_the_start(tmp_path):
    deep = RunKind("tool", ("/".join(["x" * 200] * 21),))
    with pytest.raises(OSError, match="File name too long"):
        RunFolder.create(tmp_path / "run", {}, kind=deep)


def test_a_configuration_that_was_changed_or_emptied_is_not_read_either(tmp_path):
    RunFolder.create(tmp_path, {"folds": 3}).close()
    for text in ("folds: 2\n", ""):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ChangedFileError, match="folds was 3, and is"):
            RunFolder.open(tmp_path, PLAIN)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ChangedFileError, match=r"config.yaml is damaged: "):
        RunFolder.open(tmp_path, PLAIN)


def test_a_damaged_marker_is_named_and_nothing_touched(tmp_path):
    RunFolder.create(tmp_path, {}).close()
    (tmp_path / "run.json").write_text('{"format": 9}')
    for use in (RunFolder.open, lambda path: RunFolder.create(path, {}, overwrite=True)):
        with pytest.raises(ValueError, match=r"run.json is damaged or of a newer version \(this"):
            use(tmp_path)
    assert (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [(b"{bad", "not JSON: "), (b"[1]", "not a JSON object, but [1]")],
)
def test_a_damaged_line_of_the_metrics_is_named(tmp_path, line, problem):
    run = RunFolder.create(tmp_path / "run", {})
    (run.path / "metrics.jsonl").write_bytes(b'{"updates": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: ") as error:
        RunFolder.open(run.path).metrics()
    assert str(error.value).startswith(f"{run.path / 'metrics.jsonl'}:2: {problem}")
    (run.path / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: not UTF-8 text: "):
        RunFolder.open(run.path).metrics()


def test_the_configuration_can_be_replaced(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"steps": 6})
    run.replace_config({"steps": 12})
    assert (run.path / "config.yaml").read_text() == "steps: 12\n"


def test_a_check_refuses_what_create_refuses_and_changes_nothing(tmp_path):
    kind = RunKind("ours", ("model.txt",))
    assert RunFolder.check_create(tmp_path / "new", kind=kind) == []
    assert not (tmp_path / "new").exists()
    run = tmp_path / "run"
    RunFolder.create(run, {"a": 1}, kind=kind).close()
    (run / "model.txt").write_text("weights")
    (run / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(FileExistsError, match="is a run: resume or overwrite it"):
        RunFolder.check_create(run, kind=kind)
    with pytest.raises(FileExistsError, match="is an input inside"):
        RunFolder.check_create(run, True, kind=kind, inputs={"table": run / "notes.txt"})
    with pytest.raises(FileExistsError, match="is a file; choose another folder"):
        RunFolder.check_create(run / "notes.txt", kind=kind)
    found = RunFolder.check_create(run, True, kind=kind)
    assert {path.name for path in found} == {"config.yaml", "env.json", "model.txt", "run.json"}
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".config.999999999.yaml").write_text("of a killed start")
    assert RunFolder.check_create(tmp_path / "other", kind=kind) == []
