"""A run of several members: folds, blend, the words about it, prediction, ensembles."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlx_kaggle.members.fold_columns import FoldColumns
from mlx_kaggle.prediction.ensemble import open_run
from mlx_kaggle.runs.folder import create_run, resume_run, train_run
from mlx_kaggle.settings.config import resolve_config
from mlx_trainer import ConfigError

ROWS = 100


def steps(rows: int, seed: int = 0) -> dict[str, list]:
    """A target that jumps with the last digit of a number: trees learn it, lines cannot."""
    rng = np.random.default_rng(seed)
    number = rng.integers(0, 6, rows)
    return {
        "id": list(range(rows)),
        "number": number.tolist(),
        "size": rng.normal(size=rows).round(4).tolist(),
        "y": (10 * (number % 2) + 0.1 * rng.normal(size=rows)).round(4).tolist(),
    }


def noise(rows: int, seed: int = 0) -> dict[str, list]:
    """Two classes that nothing predicts."""
    rng = np.random.default_rng(seed)
    return {
        "id": list(range(rows)),
        "a": rng.normal(size=rows).round(4).tolist(),
        "b": rng.choice(["red", "blue", "green"], rows).tolist(),
        "y": rng.choice(["no", "no", "yes"], rows).tolist(),
    }


@pytest.fixture
def train(write_csv, tmp_path, monkeypatch):
    """Train members on a table in the folder of the test; return the summary of the run."""
    monkeypatch.chdir(tmp_path)

    def call(table: dict[str, list], members: str, *overrides: str, run: str = "run") -> dict:
        write_csv("train.csv", table)
        flags = {"data.train": "train.csv", "data.target": "y"}
        flags["members"] = tuple(members.split(","))
        config = resolve_config("quick", None, flags, ["folds=3", *overrides])
        train_run(config, lambda: create_run(Path(run), config, False))
        return json.loads((tmp_path / run / "summary.json").read_text(), parse_constant=no_json)

    return call


def no_json(constant: str):
    raise AssertionError(f"{constant} is not JSON")


def test_one_member_that_is_much_better_predicts_alone_or_nearly(train):
    summary = train(steps(250), "linear,trees", "blend.generate=none")
    weights = {name: each["weight"] for name, each in summary["members"].items()}
    assert weights["trees"] + weights["HistGradientBoosting"] > 0.95
    best = min(each["score"] for each in summary["members"].values())
    assert summary["score"] <= 1.05 * best
    assert summary["members"]["linear"]["score"] > 3 * best


def test_a_run_without_folds_has_no_standard_error(train):
    summary = train(steps(ROWS), "trees", "blend.generate=none", "folds=0")
    assert summary["members"]["trees"]["standard_error"] is None


def test_noise_is_answered_by_the_constant_and_in_words(train):
    summary = train(noise(ROWS), "linear,forest,neighbours")
    assert "constant" in summary["answer"]
    majority = summary["scores"]["majority"]
    assert abs(summary["score"] - majority["accuracy"]) < 0.07


@pytest.mark.parametrize("method", ["mean", "rank_mean", "greedy", "stack", "bma", "auto"])
def test_a_shuffled_target_is_not_predicted_by_any_blend(method, train):
    table = steps(ROWS)
    table["y"] = np.random.default_rng(1).permutation(table["y"]).tolist()
    # With `auto` the columns are generated too, and target means are among them.
    generate = "all" if method == "auto" else "none"
    settings = [f"blend={{method: {method}, generate: {generate}}}", "folds=2"]
    summary = train(table, "linear,forest,neighbours", *settings)
    spread = float(np.std(table["y"]))
    assert summary["score"] > 0.9 * spread


def test_a_run_predicts_new_rows_as_its_members_do(train, write_csv, tmp_path):
    train(steps(ROWS), "linear,trees,neighbours", "blend.method=rank_mean")
    run = open_run(Path("run"))
    table = {name: [str(cell) for cell in cells] for name, cells in steps(40, seed=2).items()}
    found = run.predict(table, "new")
    np.testing.assert_array_equal(
        run.predict({name: cells[:7] for name, cells in table.items()}, "new"), found[:7]
    )
    truth = np.array(table["y"], float)
    assert np.sqrt(np.mean((found - truth) ** 2)) < 0.8 * truth.std()


def test_the_plain_rival_reads_no_generated_column(train):
    rng = np.random.default_rng(0)
    deck = rng.choice(["A", "B"], ROWS)
    codes = [f"{side}-{number}-{'PS'[number % 2]}" for side, number in
             zip(deck, rng.integers(1, 90, ROWS), strict=True)]  # fmt: skip
    answers = (deck == "A").astype(int).tolist()
    table = {"id": list(range(ROWS)), "code": codes, "a": list(range(ROWS)), "y": answers}
    train(table, "linear", "blend={generate: all, method: rank_mean}", "folds=2")
    fitted = FoldColumns.load(Path("run/members/columns-fold-0"))
    columns = fitted.columns({name: [str(cell) for cell in cells] for name, cells in table.items()})
    plain = fitted.as_they_are(columns)
    assert plain.numbers.shape[1] + plain.categories.shape[1] <= 2
    assert columns.numbers.shape[1] + columns.categories.shape[1] > 2
    rows = {name: [str(cell) for cell in cells[:9]] for name, cells in table.items()}
    assert np.isfinite(open_run(Path("run")).predict(rows, "new")).all()


def test_a_killed_run_goes_on_and_ends_the_same(train):
    before = train(steps(ROWS), "linear,trees", "folds=2")
    shutil.rmtree("run/members/trees-fold-1")
    (Path("run") / "manifest.json").unlink()
    run, config = resume_run(Path("run"))
    kept = Path("run/members/linear-fold-1/manifest.json").stat().st_mtime_ns
    train_run(config, lambda: run, resume=True)
    after = json.loads(Path("run/summary.json").read_text())
    assert after["scores"] == before["scores"]
    assert Path("run/members/linear-fold-1/manifest.json").stat().st_mtime_ns == kept
    for fold in (0, 1):  # the columns were fitted again, and are not said to be damaged
        FoldColumns.load(Path(f"run/members/columns-fold-{fold}"))


def test_an_ensemble_of_two_runs_predicts_with_the_members_of_both(train, run_cli, write_csv):
    train(steps(ROWS), "trees", "folds=2", run="a")
    train(steps(ROWS), "linear,forest", "folds=2", run="b")
    done = run_cli("ensemble", "a", "b", "--output", "both", "--blend", "rank_mean")
    assert "a/trees" in done.stdout
    assert "b/forest" in done.stdout
    test = {name: cells for name, cells in steps(20, seed=3).items() if name != "y"}
    write_csv("test.csv", test)
    run_cli("predict", "--run", "both", "--test", "test.csv", "--output", "out.csv")
    assert len(Path("out.csv").read_text().splitlines()) == 21
    shutil.rmtree("b/members/forest-fold-0")
    done = run_cli("predict", "--run", "both", "--test", "test.csv", "--output", "o.csv", code=1)
    assert "b/members/forest-fold-0: this model is missing" in done.stderr


def test_runs_of_other_rows_are_not_blended(train, run_cli):
    train(steps(ROWS), "linear", run="a")
    train(steps(ROWS), "linear", "folds=0", run="b")
    done = run_cli("ensemble", "a", "b", "--output", "both", code=1)
    assert "b: scored 20 rows, of which 20 are among the 100 of the first run" in done.stderr
    assert not Path("both").exists()


def test_text_that_adds_nothing_is_dropped_with_a_line(write_csv, tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    write_csv("train.csv", steps(ROWS))
    settings = [each for each in tiny if not each.startswith("members")]
    flags = {"data.train": "train.csv", "data.target": "y"}
    monkeypatch.setattr("mlx_kaggle.members.catalog.MEMBERS", ("trees", "text"))
    config = resolve_config("quick", None, flags, [*settings, "folds=2", "training.epochs=1"])
    train_run(config, lambda: create_run(Path("run"), config, False))
    summary = json.loads(Path("run/summary.json").read_text())
    (note,) = summary["notes"]
    assert note == (
        "text is dropped, because no column is prose, and in a trial on 50 rows it does not lower "
        "the loss of the others; --members trees,text trains it"
    )
    assert "text" not in summary["members"]
    assert not list(Path("run/members").glob("fold-*"))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("trees,neighbors", "members: unknown name 'neighbors'; did you mean 'neighbours'?"),
        ("embeddings", "members: embeddings needs a pretrained encoder: --encoder DIR"),
    ],
)
def test_a_wrong_member_gets_one_line(members, message, train):
    with pytest.raises(ConfigError) as caught:
        train(steps(30), members)
    assert message in str(caught.value)
