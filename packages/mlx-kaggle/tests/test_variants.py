"""Pseudo-labels and augmentation: measured on the folds of a run, and left off unless they help."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_kaggle.members import tabular
from mlx_kaggle.members.columns import ColumnFeatures, Columns
from mlx_kaggle.members.variants import changed_copies, text_settings
from mlx_kaggle.prediction.blended import Results, results_of, summary
from mlx_kaggle.prediction.finished import FinishedRun
from mlx_kaggle.runs.folder import create_run, resume_run
from mlx_kaggle.settings.config import RunConfig, resolve_config
from mlx_kaggle.settings.variant_settings import VariantSettings
from mlx_kaggle.training.crossval import train_members
from mlx_kaggle.training.fold import Fold
from mlx_kaggle.training.job import Job, prepare_job
from mlx_kaggle.training.network import VALIDATION
from mlx_kaggle.training.pseudo_labels import LEAST, accept, least_confidence
from mlx_kaggle.training.trained import Trained
from mlx_kaggle.training.variant_choice import settle
from mlx_kaggle.training.workers import processes, train_side_by_side
from mlx_tabular import TabularClassifier
from mlx_tabular.splits import hold_out
from mlx_trainer import RunFolder

ROWS = 90
QUICK = ("options.forest.n_estimators=20", "blend.generate=none", "training.epochs=1",
         "encoder.hidden_size=32", "encoder.num_hidden_layers=1", "encoder.num_attention_heads=2",
         "encoder.intermediate_size=32", "encoder.vocab_size=300", "head.feature_size=8",
         "training.batch_size=64")  # fmt: skip
# What a process writes about itself; archives have the time of their writing.
OF_THE_PROCESS = ("time.json", "metrics.jsonl", "manifest.json")


def moons(rows: int, seed: int) -> dict[str, list]:
    """Two half circles, one for each class."""
    rng = np.random.default_rng(seed)
    y, turn = rng.integers(0, 2, rows), rng.uniform(0, np.pi, rows)
    a = np.where(y == 0, np.cos(turn), 1 - np.cos(turn)) + rng.normal(0, 0.2, rows)
    b = np.where(y == 0, np.sin(turn), 0.5 - np.sin(turn)) + rng.normal(0, 0.2, rows)
    return {
        "a": a.round(4).tolist(),
        "b": b.round(4).tolist(),
        "y": np.array(["no", "yes"])[y].tolist(),
    }


def write(file: Path, table: dict[str, list]) -> None:
    lines = [",".join(map(str, row)) for row in zip(*table.values(), strict=True)]
    file.write_text("\n".join([",".join(table), *lines]) + "\n")


def config_of(folder: Path, members: str, *overrides: str) -> RunConfig:
    flags = {"data.train": str(folder / "train.csv"), "data.target": "y"}
    flags |= {"members": tuple(members.split(",")), "variants.pseudo_labels": "auto", "folds": 3}
    return resolve_config("quick", None, flags, [*QUICK, *overrides])


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """A folder with few labelled rows, and many without a label."""
    folder = tmp_path_factory.mktemp("variants")
    write(folder / "train.csv", moons(ROWS, 1))
    write(folder / "test.csv", {name: moons(400, 2)[name] for name in "ab"})
    return folder


@dataclass
class Run:
    """A run up to its results, without the report."""

    folder: Path
    job: Job
    results: Results

    @classmethod
    def train(cls, folder: Path, config: RunConfig) -> "Run":
        job = prepare_job(config)
        with create_run(folder, config, False) as run:
            trained = train_members(job, run, lambda event: None)
        return cls(folder, job, results_in(trained))

    @property
    def finished(self) -> FinishedRun:
        results = self.results
        return FinishedRun(
            self.folder,
            self.job.config,
            self.job.competition,
            results.decision,
            results.choice.blend,
        )

    def predict(self, table: dict[str, list], *names: str) -> dict[str, np.ndarray]:
        """Predict new rows by the named members, or by the blend."""
        cells = {name: list(map(str, table[name])) for name in "ab"}
        if names:
            return self.finished.predict_members(cells, "new", names)
        return {"": self.finished.predict(cells, "new")}


def results_in(trained: Trained) -> Results:
    return results_of(
        trained.job,
        trained.out_of_fold,
        trained.times,
        histories={},
        seconds=0.0,
        notes=trained.notes,
        variants=trained.variants,
    )


@pytest.fixture(scope="module")
def run(tables, uncompiled) -> Run:
    """A run with every variant of a forest and of a text network."""
    return Run.train(tables / "run", config_of(tables, "forest,text", "variants.augment=auto"))


def contents(run: Path) -> dict[str, bytes]:
    members = run / "members"
    return {
        each.relative_to(members).as_posix(): each.read_bytes()
        for each in members.rglob("*")
        if each.is_file() and each.suffix != ".skops" and each.name not in OF_THE_PROCESS
    }


def test_pseudo_labels_that_help_are_taken_and_predict_new_rows(run):
    shown = summary(run.results)
    measured = shown["variants"]["forest+pseudo"]
    assert measured["kept"]
    assert measured["gain"] > 2 * measured["standard_error"] > 0
    assert measured["gain"] == pytest.approx(measured["loss_without"] - measured["loss"])
    assert "forest" not in shown["members"]
    assert shown["members"]["forest+pseudo"]["weight"] > 0
    assert "forest+pseudo" in run.finished.members
    new = moons(300, 3)
    found = run.predict(new)[""].argmax(1)
    assert np.mean(found == (np.array(new["y"]) == "yes")) > 0.9


def test_the_run_says_how_many_rows_were_labelled_and_what_each_variant_gained(run):
    labels, *lines = run.results.notes
    files = run.folder.glob("members/pseudo-fold-*/labels.json")
    facts = [json.loads(file.read_text()) for file in files]
    counts = sorted({each["accepted"] for each in facts})
    assert f": {' to '.join(map(str, {counts[0]: 0, counts[-1]: 0}))} of 400 rows" in labels
    assert all(each["threshold"] > 0.5 and each["measured"] >= 0.95 for each in facts)
    assert [line.partition(":")[0] for line in lines] == [e.name for e in run.results.variants]
    (forest,) = (line for line in lines if line.startswith("forest+pseudo"))
    assert "gain +0.0" in forest
    assert ": taken; " in forest


def test_every_variant_can_predict_new_rows(run):
    names = ["forest", "forest+pseudo", "text", "text+pseudo", "text+augment"]
    found = run.predict(moons(9, 4), *names)
    assert sorted(found) == sorted(names)
    assert len({each.tobytes() for each in found.values()}) == len(names)
    assert all(each.shape == (9, 2) and np.isfinite(each).all() for each in found.values())


def test_a_killed_run_goes_on_with_its_variants_and_ends_the_same(run):
    before = contents(run.folder)
    for name in ("pseudo-fold-1", "forest+pseudo-fold-1", "fold-2-seed-0+pseudo"):
        shutil.rmtree(run.folder / "members" / name)
    kept = run.folder / "members/fold-0-seed-0+pseudo/manifest.json"
    written = kept.stat().st_mtime_ns
    folder, _ = resume_run(run.folder)
    with folder:
        trained = train_members(run.job, folder, lambda event: None, resume=True)
    assert contents(run.folder) == before
    assert kept.stat().st_mtime_ns == written
    np.testing.assert_array_equal(results_in(trained).prediction, run.results.prediction)


@pytest.mark.slow
def test_two_processes_train_variants_as_one(run, tables):
    job, events = run.job, []
    with create_run(tables / "two", job.config, False) as folder, processes(2) as executor:
        train_side_by_side(job, folder, events.append, executor)
        trained = train_members(job, folder, lambda event: None)
    np.testing.assert_array_equal(results_in(trained).prediction, run.results.prediction)
    assert contents(run.folder) == contents(tables / "two")
    counts = {each["name"]: each["count"] for each in events if each["event"] == "tasks"}
    assert counts["labelling test rows"] == 3
    assert counts["training variants"] == 9
    ended = {each["name"] for each in events if each["event"] == "member_end"}
    assert ended >= {"forest+pseudo", "text+pseudo", "text+augment"}


def test_no_target_of_a_validation_row_changes_the_labels_or_predictions_of_its_fold(tables):
    found = []
    job = prepare_job(config_of(tables, "forest"))
    for turned in (False, True):
        table, encoded = dict(job.table), job.encoded.copy()
        if turned:
            rows = job.splits[0][1]
            encoded[rows] = 1 - encoded[rows]
            table["y"] = np.array(job.competition.classes)[encoded].tolist()
        run = RunFolder(tables / f"turned-{turned}")
        fold = Fold(replace(job, table=table, encoded=encoded), 0, run, lambda event: None)
        for name in ("histgb", "forest"):
            fold.train_member(name, *fold.columns())
        fold.label_test(*fold.columns()[:2])
        fold.train_member("forest+pseudo", *fold.columns())
        labels = fold.labels()
        assert len(labels.rows) > 20
        found.append((labels.rows, labels.codes, labels.facts,
                      np.load(fold.folder("forest+pseudo") / VALIDATION)))  # fmt: skip
    for one, other in zip(*found, strict=True):
        np.testing.assert_equal(one, other)


def test_variants_of_a_shuffled_target_are_left_off(tmp_path):
    table = moons(60, 1)
    table["y"] = np.random.default_rng(4).permutation(table["y"]).tolist()
    write(tmp_path / "train.csv", table)
    write(tmp_path / "test.csv", {name: moons(100, 2)[name] for name in "ab"})
    # Wrong labels are accepted.
    config = config_of(tmp_path, "forest", "folds=2", "variants.precision=0.3")
    results = Run.train(tmp_path / "run", config).results
    (measured,) = results.variants
    assert not measured.kept
    labels, line = results.notes
    assert " 0 of 100 rows" not in labels
    assert ": left off" in line


def test_a_part_is_predicted_by_what_is_chosen_on_the_other_parts(tables):
    job = prepare_job(config_of(tables, "forest"))
    truth, rng = job.encoded[job.scored_rows], np.random.default_rng(0)
    sure = np.where(np.eye(2)[truth] == 1, 0.7, 0.3)
    surer = np.where(np.eye(2)[truth] == 1, 0.8, 0.2) + rng.normal(0, 0.01, (ROWS, 1)) * [1, -1]
    ends = np.cumsum([len(val) for _, val in job.splits])[:-1]

    def settled(turned: bool) -> Trained:
        encoded, part = job.encoded.copy(), job.splits[0][1]
        if turned:
            encoded[part] = 1 - encoded[part]
        predictions = {"forest": np.split(sure, ends), "forest+pseudo": np.split(surer, ends)}
        seconds = dict.fromkeys(predictions, 1.0)
        return settle(Trained(replace(job, encoded=encoded), ["forest"], predictions, seconds))

    clear, doubtful = settled(False), settled(True)
    assert clear.members == ["forest+pseudo"]
    np.testing.assert_array_equal(clear.out_of_fold["forest+pseudo"], surer)
    assert doubtful.members == ["forest"]  # of all rows the gain is not clear
    assert doubtful.variants[0].folds == 1
    expected = np.concatenate([np.split(surer, ends)[0], *np.split(sure, ends)[1:]])
    np.testing.assert_array_equal(doubtful.out_of_fold["forest"], expected)


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60), st.floats(0.5, 1))
@example([(20, True)] * 20 + [(10, True)] * 10 + [(10, False)] * 10, 0.95)
@settings(max_examples=100, deadline=None)
def test_the_threshold_is_the_least_whose_rows_are_precise(rows, precision):
    confidence = np.array([each for each, _ in rows], float) / 20
    right = np.array([each for _, each in rows], bool)
    found = least_confidence(confidence, right, precision)
    precise = [
        each
        for each in set(confidence.tolist())
        if (confidence >= each).sum() >= LEAST and right[confidence >= each].mean() >= precision
    ]
    assert found == min(precise, default=None)


def test_labels_that_are_never_precise_train_nothing(tmp_path):
    table = moons(60, 1)
    table["y"] = np.random.default_rng(0).permutation(table["y"]).tolist()
    write(tmp_path / "train.csv", table)
    write(tmp_path / "test.csv", {name: moons(50, 2)[name] for name in "ab"})
    run = Run.train(tmp_path / "run", config_of(tmp_path, "forest", "folds=2"))
    (line,) = run.results.notes
    assert line.startswith("pseudo-labels: left off, no label of 50 rows of the test table is ")
    folders = sorted(each.name for each in (run.folder / "members").glob("*pseudo*"))
    assert folders == ["pseudo-fold-0"]


def test_accepted_rows_are_confident_and_have_the_classes_in_the_shares_of_the_table():
    rng = np.random.default_rng(0)
    second = rng.beta(0.5, 1.5, 2000)
    probabilities = np.stack([1 - second, second], 1)
    rows = accept(probabilities, 0.9, 100, rng)
    assert len(rows) == len(set(rows.tolist())) == 100
    assert probabilities[rows].max(1).min() >= 0.9
    assert np.mean(second[rows] > 0.5) == pytest.approx(second.mean(), abs=0.01)
    assert np.mean(second[probabilities.max(1) >= 0.9] > 0.5) < second.mean() - 0.05
    assert len(accept(probabilities, 1.0, 100, rng)) == 0


@pytest.mark.parametrize(
    ("target", "test", "note"),
    [
        ("y", False, "no pseudo-labels: there is no test table; name it with --test"),
        ("b", True, "no pseudo-labels: the task regression has no confidence of one class of a "
                    "row"),
    ],
)  # fmt: skip
def test_what_has_no_pseudo_labels_gets_one_line(target, test, note, tmp_path):
    write(tmp_path / "train.csv", moons(60, 1))
    if test:
        write(tmp_path / "test.csv", {name: moons(60, 2)[name] for name in ("a", "y")})
    config = config_of(tmp_path, "forest", f"data.target={target}")
    job = prepare_job(config)
    assert job.variants == []
    assert job.notes.count(note) == 1


@pytest.fixture
def columns(tables) -> tuple[Job, Columns]:
    job = prepare_job(config_of(tables, "tabular"))
    return job, ColumnFeatures.fit(job.competition, job.table, 0).transform(job.table)


def test_copies_move_numbers_by_their_spread_and_swap_categories(columns):
    _, found = columns
    rng = np.random.default_rng(0)
    numbers = np.stack([rng.normal(0, 1, 5000), rng.normal(0, 1000, 5000)], 1)
    numbers[:100] = np.nan
    categories = rng.choice([0.0, 1.0, 2.0, np.nan], (5000, 1))
    wide = replace(found, numbers=numbers, categories=categories, components=np.zeros((5000, 0)))
    copies = changed_copies(wide, VariantSettings(jitter=0.1, swap=0.3), 1)
    moved = (copies.numbers - numbers)[100:]
    np.testing.assert_allclose(moved.std(0), [0.1, 100], rtol=0.05)
    assert np.isnan(copies.numbers[:100]).all()
    np.testing.assert_array_equal(np.sort(copies.categories, 0), np.sort(categories, 0))
    same = np.mean((copies.categories == categories) | np.isnan(copies.categories + categories))
    assert 0.7 < same < 0.95
    again = changed_copies(wide, VariantSettings(jitter=0.1, swap=0.3), 1)
    np.testing.assert_array_equal(again.numbers, copies.numbers)


def test_the_tabular_network_learns_from_copies_but_not_of_rows_that_decide_when_to_stop(columns):
    job, found = columns
    options = {"k": 2, "d_block": 8, "d_embedding": 2, "max_epochs": 2}
    probabilities = []
    held = hold_out(ROWS, 0.15, 0, job.encoded)
    for rows in (held, ~held, np.zeros(ROWS, bool)):
        copies = replace(found, numbers=np.where(rows[:, None], 3.0, found.numbers))
        model = tabular.fit(job.competition, found, job.encoded, 0, options=options, copies=copies)
        probabilities.append(tabular.predict(model, found))
    np.testing.assert_array_equal(probabilities[0], probabilities[2])
    assert not np.array_equal(probabilities[1], probabilities[2])


def test_a_text_is_augmented_as_a_variant_only_if_that_is_measured():
    plain = resolve_config("quick")
    assert text_settings(plain, "") is plain
    assert plain.text.drop_token > 0
    measured = resolve_config("quick", overrides=["variants.augment=auto"])
    assert text_settings(measured, "").text.drop_token == 0
    assert text_settings(measured, "pseudo").text.shuffle_columns == 0
    assert text_settings(measured, "augment").text == plain.text
    without = replace(measured, text=text_settings(measured, "").text)
    assert text_settings(without, "augment").text.shuffle_columns == 0.5


def test_rows_that_depend_on_groups_have_copies_of_their_group_and_no_pseudo_labels(tmp_path):
    homes = {"home": [f"h{row // 6}" for row in range(60)]}
    write(tmp_path / "train.csv", moons(60, 1) | homes)
    write(tmp_path / "test.csv", {name: moons(60, 2)[name] for name in "ab"} | homes)
    groups = "cv.scheme=group", "cv.group=home", "variants.augment=auto"
    job = prepare_job(config_of(tmp_path, "tabular", *groups))
    assert job.variants == ["tabular+augment"]
    note = "the group of rows of the test table is not known, and folds are divided by it"
    assert job.notes.count(f"no pseudo-labels: {note}") == 1
    plain = ColumnFeatures.fit(job.competition, job.table, 0).transform(job.table)
    found = replace(plain, dependence=job.dependence)
    assert found.dependence is not None
    both = found.append(changed_copies(found, VariantSettings(), 1)).dependence
    assert both is not None
    np.testing.assert_array_equal(both.codes, np.tile(found.dependence.codes, 2))
    held = []

    class Recorded(TabularClassifier):
        def fit(self, X, y, sample_weight=None, validation=None):
            held.append(validation)
            return self

    copies = np.full((60, 2), 7.0)
    x = np.stack([np.arange(60.0), found.dependence.codes], 1)
    tabular._fit(Recorded(), x, np.tile([0, 1], 30), "multiclass", copies, found.dependence)
    rows = held[0][0][:, 0].astype(int)
    assert set(found.dependence.codes[rows]).isdisjoint(
        found.dependence.codes[np.setdiff1d(np.arange(60), rows)]
    )
