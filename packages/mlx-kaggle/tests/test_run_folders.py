"""The commands `runs`: every run is named, like is ranked with like, only runs are deleted."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from mlx_kaggle.prediction.ensemble import blend_runs
from mlx_kaggle.runs.comparison import group_runs, paired_difference
from mlx_kaggle.runs.folder import create_run, train_run
from mlx_kaggle.runs.reading import find_runs, read_record
from mlx_kaggle.settings.config import resolve_config
from mlx_trainer import FolderLock

TINY = [
    *("encoder.hidden_size=32", "encoder.num_hidden_layers=1", "encoder.num_attention_heads=2"),
    *("encoder.intermediate_size=32", "encoder.vocab_size=300", "head.feature_size=8"),
    *("text.max_tokens=64", "blend={generate: none}", "training.epochs=2"),
]


def train(name: str, members: tuple[str, ...], *overrides: str) -> None:
    flags = {"data.train": "train.csv", "data.target": "y", "folds": 3, "members": members}
    config = resolve_config(None, None, flags, [*TINY, *overrides])
    train_run(config, lambda: create_run(Path("runs", name), config, False))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with three runs and an ensemble of two of them, made once."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [f"{i},{i % 7},{('red', 'blue')[i % 2]},{i % 2 + i / 100}" for i in range(66)]
    (folder / "train.csv").write_text("\n".join(["id,amount,colour,y", *rows]) + "\n")
    with contextlib.chdir(folder):
        train("plain", ("trees", "linear"))
        train("other", ("trees", "linear"), "data.metric=mae")
        train("text", ("text", "linear"), "training.learning_rate=0.003")
        blend_runs([Path("runs/plain"), Path("runs/text")], Path("runs/both"))
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch) -> Path:
    """Copies of the runs; the ensemble blends the copies."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "run.json"):
        file = Path("runs/both", name)
        file.write_text(file.read_text().replace(str(trained.resolve()), str(tmp_path.resolve())))
    return Path("runs")


def snapshot(folder: Path) -> dict[str, bytes]:
    """The contents of all files, links by their target."""
    return {
        str(path): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_every_run_is_listed_and_only_like_is_ranked_with_like(runs, run_cli):
    listed = json.loads(run_cli("runs", "list", "runs", "--json").stdout)
    assert listed["notes"] == []
    found = {each["name"]: each for each in listed["runs"]}
    assert found.keys() == {"plain", "other", "text", "both"}
    assert {each["state"] for each in found.values()} == {"finished"}
    assert found["other"]["metric"] == "mae"
    groups = group_runs(find_runs(runs)[0])
    names = {tuple(sorted(run.name for run in group)) for group in groups}
    assert names == {("both", "plain", "text"), ("other",)}
    for group in groups:
        assert [run.score for run in group] == sorted(run.score for run in group)
    summary = json.loads((runs / "plain/summary.json").read_text())
    plain = summary["scores"]["HistGradientBoosting"]["rmse"]
    assert found["plain"]["hist_gradient_boosting"] == plain
    assert found["plain"]["best_member"]["name"] in ("trees", "linear")
    text = run_cli("runs", "list").stdout
    assert all(name in text for name in ("plain", "other", "text", "both", "rmse", "mae"))


def test_another_table_is_another_question(runs):
    marker = runs / "text/run.json"
    values = json.loads(marker.read_text())
    values["inputs"]["data.train"]["sha256"] = {".": "0" * 64}
    marker.write_text(json.dumps(values))
    groups = group_runs([read_record(runs / name) for name in ("plain", "text")])
    assert [len(group) for group in groups] == [1, 1]


def test_what_is_no_finished_run_is_named_with_the_reason(runs, run_cli):
    (runs / "plain/manifest.json").unlink()
    (runs / "text/summary.json").write_text("{}")
    (runs / "other/run.json").write_text('{"tool"')
    shutil.copytree(runs / "both", runs / "deep/er/ensemble")
    shutil.rmtree(runs / "both")
    (runs / "gpt").mkdir()
    (runs / "gpt/run.json").write_text('{"tool": "mlx-gpt", "format": 1}')
    listed = json.loads(run_cli("runs", "list", "--json").stdout)
    found = {each["name"]: (each["state"], each.get("problem", "")) for each in listed["runs"]}
    assert found["plain"][0] == "unfinished"
    assert "train --resume --output" in found["plain"][1]
    assert found["text"][0] == "damaged"
    assert "summary.json is damaged or was changed" in found["text"][1]
    assert found["other"][0] == "damaged"
    assert "run.json is damaged" in found["other"][1]
    assert found["deep/er/ensemble"][0] == "finished"
    assert listed["notes"] == [f"{runs / 'gpt'}: a run of mlx-gpt"]
    text = run_cli("runs", "list").stdout
    assert all(name in text for name in ("plain", "text", "other", "deep/er/ensemble", "mlx-gpt"))


def test_a_missing_model_and_a_missing_run_of_an_ensemble_are_damage(runs):
    shutil.rmtree(runs / "text")
    assert "text is not there any more" in read_record(runs / "both").problem
    weights = json.loads((runs / "plain/blend.json").read_text())["weights"]
    names = {"HistGradientBoosting": "histgb", "training mean": "constant"}
    needed = next(names.get(name, name) for name, weight in weights.items() if weight)
    (runs / f"plain/members/{needed}-fold-1/manifest.json").unlink()
    assert (
        read_record(runs / "plain").problem == f"members/{needed}-fold-1 is missing or unfinished"
    )


def test_a_run_in_training_is_not_called_unfinished(runs):
    (runs / "plain/manifest.json").unlink()
    with FolderLock(runs / "plain"):
        assert read_record(runs / "plain").state == "training"
    assert read_record(runs / "plain").state == "unfinished"


def test_links_are_followed_to_runs_only_and_each_run_is_listed_once(runs, tmp_path):
    shutil.move(runs / "text", tmp_path / "elsewhere")
    (runs / "text").symlink_to(tmp_path / "elsewhere")
    (runs / "again").symlink_to((runs / "plain").resolve())
    (runs / "loop").symlink_to(tmp_path)
    records, notes = find_runs(runs)
    assert sorted(each.name for each in records) == ["both", "other", "plain", "text"]
    assert notes == [f"{runs / 'loop'}: links to folders, which were not searched"]


def test_show_prints_what_differs_from_the_preset(runs, run_cli):
    shown = json.loads(run_cli("runs", "show", "runs/text", "--json").stdout)
    settings = shown["settings"]
    assert settings["training.learning_rate"] == [0.001, 0.003]
    assert "training.batch_size" not in settings
    assert {"file": "summary.json", "bytes": (runs / "text/summary.json").stat().st_size} in shown[
        "files"
    ]
    text = run_cli("runs", "show", "runs/text").stdout
    assert "training.learning_rate" in text
    assert json.loads((runs / "text/summary.json").read_text())["answer"] in text
    assert "is not a run: it has no run.json" in run_cli("runs", "show", "runs", code=1).stderr


def test_compare_shows_only_what_differs_and_pairs_the_folds(runs, run_cli):
    compared = json.loads(run_cli("runs", "compare", "runs/plain", "runs/text", "--json").stdout)
    assert compared["settings"].keys() == {"members", "training.learning_rate"}
    plain, text = (read_record(runs / name) for name in ("plain", "text"))
    differences = [a - b for a, b in zip(text.fold_scores, plain.fold_scores, strict=True)]
    mean = sum(differences) / 3
    error = (sum((each - mean) ** 2 for each in differences) / 2 / 3) ** 0.5
    assert paired_difference(text, plain) == pytest.approx((mean, error))
    found = compared["scores"]["runs/text"]["difference"]
    assert (found["mean"], found["standard_error"]) == pytest.approx((mean, error))
    run_cli("runs", "compare", "runs/plain", "runs/plain", code=2)


def test_folds_that_differ_are_not_paired(trained, runs, run_cli):
    train("seed", ("linear",), "seed=1")
    done = run_cli("runs", "compare", "runs/plain", "runs/seed", "runs/other")
    reason = "other folds or rows (66 rows, 3 folds, not 66 rows, 3 folds)"
    assert f"runs/seed: not compared fold by fold with runs/plain: {reason}" in done.stdout
    assert "another question" in done.stdout


def test_rm_deletes_the_run_and_leaves_all_else(runs, run_cli):
    (runs / "notes.txt").write_text("mine")
    (runs / "other/submissions.jsonl").write_text("{}\n")  # `submit` adds it to a run
    before = snapshot(Path())
    done = run_cli("runs", "rm", "runs/other", "--yes")
    assert "deleted 1 run" in done.stdout
    assert not (runs / "other").exists()
    kept = {name: each for name, each in before.items() if not name.startswith("runs/other/")}
    assert snapshot(Path()) == kept


def _inside(runs: Path) -> None:
    shutil.copytree(runs / "plain", runs / "other/inner")


def _note(runs: Path) -> None:
    (runs / "other/thesis.docx").write_text("x")


def _note_of_a_member(runs: Path) -> None:
    (runs / "other/members/trees-fold-0/notes.txt").write_text("x")


def _link(runs: Path) -> None:
    (runs / "other/link").symlink_to("/")


def _linked_members(runs: Path) -> None:
    shutil.move(runs / "other/members", runs / "members-elsewhere")
    (runs / "other/members").symlink_to((runs / "members-elsewhere").resolve())


def _linked_file(runs: Path) -> None:
    shutil.move(runs / "other/report.html", runs / "report.html")
    (runs / "other/report.html").symlink_to((runs / "report.html").resolve())


def _no_marker(runs: Path) -> None:
    (runs / "other/run.json").unlink()


def _other_tool(runs: Path) -> None:
    text = (runs / "other/run.json").read_text()
    (runs / "other/run.json").write_text(text.replace('"mlx-kaggle"', '"mlx-gpt"'))


def _damaged_marker(runs: Path) -> None:
    (runs / "other/run.json").write_text("{")


def _a_link_itself(runs: Path) -> None:
    shutil.move(runs / "other", runs / "real")
    (runs / "other").symlink_to((runs / "real").resolve())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_inside, "has files that no run wrote: inner/blend.json, "),
        (_note, "has files that no run wrote: thesis.docx; nothing was deleted"),
        (_note_of_a_member, "notes.txt is not in "),
        (_link, "has files that no run wrote: link; "),
        (_linked_members, "has files that no run wrote: members; "),
        (_linked_file, "has files that no run wrote: report.html; "),
        (_no_marker, "is no folder with a run.json: nothing was deleted"),
        (_other_tool, "is a run of mlx-gpt: nothing was deleted"),
        (_damaged_marker, "run.json is damaged"),
        (_a_link_itself, "is a link to "),
    ],
)
def test_rm_refuses_what_no_run_wrote_and_deletes_nothing(runs, run_cli, change, message):
    change(runs)
    before = snapshot(Path())
    for arguments in (["runs/other"], ["runs/both", "runs/other"]):
        assert message in run_cli("runs", "rm", *arguments, "--yes", code=1).stderr
        assert snapshot(Path()) == before


def test_rm_refuses_the_folder_of_the_runs_and_one_in_training(runs, run_cli):
    before = snapshot(Path())
    for folder in ("runs", "."):
        assert "run.json: nothing was deleted" in run_cli("runs", "rm", folder, "--yes",
                                                          code=1).stderr  # fmt: skip
    with FolderLock(runs / "other"):
        done = run_cli("runs", "rm", "runs/other", "--yes", code=1)
    assert "another process is training in it" in done.stderr
    assert "give --yes" in run_cli("runs", "rm", "runs/other", code=2).stderr
    assert snapshot(Path()) == before


def test_rm_refuses_a_run_that_an_ensemble_needs_unless_both_go(runs, run_cli):
    before = snapshot(Path())
    done = run_cli("runs", "rm", "runs/plain", "--yes", code=1)
    assert "runs/plain is needed by the ensemble " in done.stderr
    assert snapshot(Path()) == before
    (runs / "both/config.yaml").write_text("runs: [")
    done = run_cli("runs", "rm", "runs/other", "--yes", code=1)
    assert "both is a damaged ensemble" in done.stderr
    run_cli("runs", "rm", "runs/plain", "runs/both", "runs/./plain", "--yes")
    assert sorted(each.name for each in runs.iterdir()) == ["other", "text"]


def test_an_unfinished_run_and_what_a_killed_process_left_are_deleted(runs, run_cli):
    (runs / "other/manifest.json").unlink()
    (runs / "other/.summary.99999999.json").write_text("{")
    run_cli("runs", "rm", "runs/other", "--yes")
    assert not (runs / "other").exists()


def test_the_page_names_every_run_and_needs_nothing_else(runs, run_cli):
    (runs / "other/manifest.json").unlink()
    Path("pages").mkdir()
    run_cli("runs", "page", "runs", "--output", "pages/page.html")
    page = Path("pages/page.html").read_text()
    assert all(f">{name}<" in page for name in ("plain", "other", "text", "both"))
    assert 'href="../runs/plain/report.html"' in page
    assert "could not be drawn" not in page
    assert page.count("<svg") == 3  # score against time, two figures of learning curves
    assert "training.learning_rate" in page
    for address in ("http://", "https://"):
        # Of the figures' name spaces; nothing is loaded.
        assert f'src="{address}' not in page
        assert f'href="{address}' not in page


def test_a_folder_without_runs_is_an_empty_list_and_page(tmp_path, run_cli):
    (tmp_path / "empty").mkdir()
    assert "no run in empty" in run_cli("runs", "list", "empty").stdout
    assert json.loads(run_cli("runs", "list", "empty", "--json").stdout) == {
        "runs": [],
        "notes": [],
    }
    run_cli("runs", "page", "empty", "--output", "page.html")
    assert "No run was found" in (tmp_path / "page.html").read_text()
    assert "does not exist" in run_cli("runs", "list", "nowhere", code=2).stderr
