import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from mlx_trainer import RunFolder


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

    monkeypatch.setattr("mlx_trainer.run.describe_environment", killed)
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
    resumed = RunFolder.open(run.path)
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


def test_an_existing_run_is_replaced_only_when_told(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"a": 1})
    run.log({"updates": 1})
    with pytest.raises(FileExistsError) as error:
        RunFolder.create(run.path, {"a": 2})
    assert str(error.value) == (
        f"{run.path} is not empty; open() continues the run, overwrite=True replaces it"
    )
    again = RunFolder.create(run.path, {"a": 2}, overwrite=True)
    assert again.metrics() == []
    assert (run.path / "config.yaml").read_text() == "a: 2\n"


def test_a_folder_that_is_no_run_is_neither_opened_nor_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    for open_it in (
        lambda: RunFolder.open(tmp_path),
        lambda: RunFolder.create(tmp_path, {}, overwrite=True),
    ):
        with pytest.raises(FileNotFoundError) as error:
            open_it()
        assert str(error.value) == f"{tmp_path} is not a run: it has no config.yaml"
    assert (tmp_path / "thesis.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("line", "problem"),
    [(b"{bad", "not JSON: "), (b"[1]", "not a JSON object, but [1]")],
)
def test_a_damaged_line_of_the_metrics_is_named(tmp_path, line, problem):
    run = RunFolder.create(tmp_path / "run", {})
    (run.path / "metrics.jsonl").write_bytes(b'{"updates": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: ") as error:
        RunFolder.open(run.path)
    assert str(error.value).startswith(f"{run.path / 'metrics.jsonl'}:2: {problem}")
    (run.path / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: not UTF-8 text: "):
        RunFolder.open(run.path)


def test_the_configuration_can_be_replaced(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"steps": 6})
    run.replace_config({"steps": 12})
    assert (run.path / "config.yaml").read_text() == "steps: 12\n"
