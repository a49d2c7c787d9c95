"""`mlx-kaggle export`: the folders of a run, what they answer without MLX, and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_kaggle import RunError
from mlx_kaggle.export import run_export
from mlx_kaggle.export.plan import plan_export
from mlx_kaggle.prediction.finished import FinishedRun
from mlx_kaggle.runs.folder import create_run, train_run
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.files import take, write_csv
from mlx_kaggle.training.finish import RUN_FILES
from mlx_tabtext import read_table
from mlx_trainer import write_manifest

README = Path(__file__).parents[1] / "README.md"
TOLERANCE = 1e-4
# As `python -c` of the text of a file, where no MLX is installed.
WITHOUT_MLX = """
import sys
for name in ("mlx", "mlx_kaggle", "mlx_encoders", "mlx_heads"):
    sys.modules[name] = None
"""
WORDS = ("storm", "flood", "calm", "warm", "rain", "wind")


def rows(count: int, seed: int) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    size = np.round(rng.gamma(2.0, 5.0, count), 2)
    notes = [" ".join(rng.choice(WORDS, 6)) + ", they all said again today" for _ in range(count)]
    label = np.where(size > 8, "large", "small").tolist()
    return {
        "id": list(range(100 * seed, 100 * seed + count)),
        "note": notes,
        "size": ["" if n % 9 == 0 else each for n, each in enumerate(size.tolist())],
        "place": rng.choice(["north", "south"], count).tolist(),
        "label": label,
        "price": np.round(20 * size + 5, 2).tolist(),
    }


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Train a run of these settings once; return its folder."""
    made: dict[tuple, Path] = {}
    folder = tmp_path_factory.mktemp("runs")
    write_csv(folder / "train.csv", rows(60, 0))

    def make(*overrides: str) -> Path:
        if overrides not in made:
            made[overrides] = folder / f"run{len(made)}"
            kinds = {"note": "text", "label": "ignored", "price": "ignored"}
            target = next(each for each in overrides if "target" in each).partition("=")[2]
            kinds.pop(target)
            flags = {"data.train": str(folder / "train.csv"), "data.kinds": kinds}
            config = resolve_config("quick", flags=flags, overrides=[*TINY, *overrides])
            train_run(config, lambda: create_run(made[overrides], config, False), is_quiet=True)
        return made[overrides]

    return make


TINY = [
    *("encoder.hidden_size=32", "encoder.num_hidden_layers=1", "encoder.num_attention_heads=2"),
    *("encoder.intermediate_size=32", "encoder.vocab_size=300", "head.feature_size=8"),
    *("text.max_tokens=24", "blend.generate=none", "training.epochs=1", "members=[text]"),
]
CLASSES = ("data.target=label", "data.id_column=id", "folds=2", "blend.method=mean", "text.tta=2")
PRICE = ("data.target=price", "data.id_column=id", "data.metric=rmsle", "folds=0")


def text_answer(run: Path, table: dict) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the answer of the member text, as `predict` has it."""
    plan = plan_export(run, None)
    found = plan.run.predict_members(table, "test.csv", ["text"])["text"]
    return plan.decision.apply(plan.run.competition, found)


def answers_without_mlx(folder: Path, script: str) -> None:
    """Run a script in a process that cannot import MLX, in the parent of the exported folder."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MLX + script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("settings", [CLASSES, PRICE], ids=["classes", "price"])
def test_the_example_of_the_readme_answers_as_predict_where_no_mlx_is(
    settings, make_run, run_cli, tmp_path
):
    pytest.importorskip("onnxruntime", reason="needs mlx-kaggle[onnx]")
    run = make_run(*settings)
    new = rows(25, 1)
    write_csv(tmp_path / "test.csv", new)
    done = run_cli("export", "--run", run, "--format", "onnx", "--output", "exported", "--json")
    values = json.loads(done.stdout)
    assert values["check"]["rows"] == 60
    assert values["check"]["largest_difference"] < TOLERANCE * 200  # prices are up to 1,000
    assert values["check"]["labels_that_differ"] == 0
    (example,) = re.findall(r"^```py\n(.*?)^```", README.read_text("utf-8"), re.M | re.S)
    save = """
import numpy, runpy
labels = [] if labels is None else labels
numpy.savez("found.npz", prediction=prediction, labels=labels)
sys.argv = ["predict.py", "test.csv", "answers.csv"]
runpy.run_path("exported/predict.py", None, "__main__")
"""
    answers_without_mlx(tmp_path, example + save)
    expected, codes = text_answer(run, read_table(str(tmp_path / "test.csv")))
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["prediction"], expected, rtol=1e-5, atol=1e-5)
        assert codes is None or found["labels"].tolist() == codes.tolist()
    answers = read_table(str(tmp_path / "answers.csv"))
    assert answers["id"] == [str(each) for each in new["id"]]
    if codes is None:
        np.testing.assert_allclose(np.array(answers["price"], float), expected, rtol=1e-5)
    else:
        assert answers["label"] == [("large", "small")[code] for code in codes]


def test_a_network_alone_and_all_of_them_have_what_they_say(make_run, run_cli, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs mlx-kaggle[onnx]")
    export = ("export", "--run", make_run(*CLASSES), "--format", "onnx", "--output")
    run_cli(*export, "one", "--member", "fold-1-seed-0")
    done = run_cli(*export, "both", "--rows", 7)
    assert "exported: text, 2 of 2 networks" in done.stdout
    assert "checked: 7 of 60 rows of train.csv, by predict.py in onnxruntime" in done.stdout
    one, both = (json.loads((tmp_path / name / "export.json").read_text()) for name in
                 ("one", "both"))  # fmt: skip
    assert one["networks"] == [{"name": "fold-1-seed-0", "folder": "."}]
    assert (one["networks_of_the_run"], one["combine"]) == (2, "mean")
    assert [each["folder"] for each in both["networks"]] == ["fold-0-seed-0", "fold-1-seed-0"]
    assert one["inputs"]["features"]["shape"][0] == "batch"
    assert one["outputs"]["prediction"]["shape"] == ["batch", 2]
    assert one["classes"] == ["large", "small"]
    names = {each.name for each in (tmp_path / "one").iterdir()}
    assert names == {
        *("export.json", "decision.json", "predict.py", "model.onnx", "text.json"),
        *("features.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    }
    first = (tmp_path / "one/model.onnx").read_bytes()
    assert first == (tmp_path / "both/fold-1-seed-0/model.onnx").read_bytes()


@pytest.mark.parametrize("settings", [CLASSES, PRICE], ids=["classes", "price"])
def test_a_hugging_face_folder_answers_as_the_member(settings, make_run, run_cli, tmp_path):
    done = run_cli("export", "--run", make_run(*settings), "--format", "hf", "--output", "exported")
    found = re.search(r"largest difference ([^ ,]+), 0 labels differ", done.stdout)
    assert found
    assert float(found[1]) < 1e-3  # prices are up to 1,000
    assert "the head is in head.safetensors, as described in head.json, because it reads" in (
        done.stdout
    )


def test_a_difference_leaves_nothing_and_exits_with_1(make_run, run_cli, tmp_path, monkeypatch):
    real = run_export.load_huggingface

    def damaged(folder, member):
        again = real(folder, member)
        again.model.head.output.bias = again.model.head.output.bias + 0.5
        return again

    monkeypatch.setattr(run_export, "load_huggingface", damaged)
    run = make_run(*PRICE)
    done = run_cli("export", "--run", run, "--format", "hf", "--output", "exported", code=1)
    assert "does not answer as mlx-kaggle predict does, nothing was written: the largest " in (
        done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_kept_and_an_export_needs_overwrite(make_run, run_cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("kept")
    run = make_run(*PRICE)
    export = ("export", "--run", run, "--format", "hf", "--output")
    done = run_cli(*export, "mine", "--overwrite", code=1)
    assert "mine exists, and has what no export wrote" in done.stderr
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    run_cli(*export, "exported")
    assert "replace it with --overwrite" in run_cli(*export, "exported", code=1).stderr
    run_cli(*export, "exported", "--overwrite")
    (tmp_path / "exported/notes.txt").write_text("kept")
    assert "what no export wrote" in run_cli(*export, "exported", "--overwrite", code=1).stderr
    inside = run_cli(*export, run / "exported", code=1).stderr
    assert "choose an --output outside of it" in inside
    assert not list(tmp_path.glob(".*"))


def test_members_that_are_no_text_are_named_with_the_share_of_the_text(make_run, run_cli, tmp_path):
    run = make_run(*CLASSES)
    export = ("export", "--run", run, "--format", "onnx", "--output", "exported", "--dry-run")
    done = run_cli(*export)
    share = FinishedRun.open(run).blend.weights["text"]
    assert "not exported: HistGradientBoosting; only text can be" in done.stdout
    assert f"the exported member has {share:.0%} of the weight" in done.stdout
    assert "nothing was written" in done.stdout
    assert not (tmp_path / "exported").exists()
    assert json.loads(run_cli(*export, "--json").stdout)["weight"] == share
    for name, message in (("linear", "linear cannot be exported"), ("fold-0-seed-3", "did you")):
        assert message in run_cli(*export, "--member", name, code=1).stderr


def test_a_run_without_text_says_what_it_has(make_run, tmp_path):
    run = shutil.copytree(make_run(*CLASSES), tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    del summary["members"]["text"]
    summary["members"]["linear"] = {}
    (run / "summary.json").write_text(json.dumps(summary))
    write_manifest(run, RUN_FILES)
    with pytest.raises(RunError, match=r"has no member text, .* it has linear\. Train it"):
        plan_export(run, None)


def test_a_table_that_is_gone_is_named(make_run, run_cli, tmp_path):
    run = make_run(*PRICE)
    train = run.parent / "train.csv"
    moved = train.rename(tmp_path / "moved.csv")
    export = ("export", "--run", run, "--format", "hf", "--output", "exported")
    assert "name one with --data" in run_cli(*export, code=1).stderr
    assert "10 of 10 rows of other.csv" in run_cli(*export, "--data", other(tmp_path)).stdout
    moved.rename(train)


def other(folder: Path) -> Path:
    table = read_table(str(folder / "moved.csv"))
    write_csv(folder / "other.csv", take(table, range(10)))
    return folder / "other.csv"


def test_a_missing_library_names_the_extra(make_run, run_cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    export = ("export", "--run", make_run(*PRICE), "--format", "coreml", "--output", "exported")
    message = "coremltools is not installed; pip install 'mlx-kaggle[coreml]'"
    assert message in run_cli(*export, code=1).stderr
    assert "omit it" in run_cli(*export, "--data", README, code=2).stderr
    assert not list(tmp_path.iterdir())


# coremltools leaves a temporary folder of its own to the garbage collector.
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_core_ml_is_evaluated_and_says_that_core_ml_has_not_run(make_run, run_cli, tmp_path):
    pytest.importorskip("coremltools", reason="needs mlx-kaggle[coreml]")
    export = ("export", "--run", make_run(*PRICE), "--format", "coreml", "--output", "exported")
    done = run_cli(*export)
    assert "checked: coremltools, not by Core ML, on random inputs: largest " in done.stdout
    assert (tmp_path / "exported/model.mlpackage/Manifest.json").is_file()
    run_cli(*export, "--overwrite")
