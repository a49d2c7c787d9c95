"""Splits inside the training rows of a fold keep groups together, and validate on later rows."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_kaggle.blend.contest import Contest
from mlx_kaggle.blend.loss import Loss
from mlx_kaggle.generate.candidates import Candidate
from mlx_kaggle.generate.measure import Trial
from mlx_kaggle.generate.target_means import TargetMean
from mlx_kaggle.members.saved import load_json
from mlx_kaggle.members.text import Experiment
from mlx_kaggle.prediction.blended import blend_members
from mlx_kaggle.prediction.decision import parts_of
from mlx_kaggle.runs.folder import KIND
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.dependence import Dependence, split_inside
from mlx_kaggle.tables.splits import split_rows
from mlx_kaggle.training.crossval import train_members
from mlx_kaggle.training.fold import Fold
from mlx_kaggle.training.job import prepare_job
from mlx_kaggle.training.network import _held_out_for_soup, train_network
from mlx_kaggle.tuning.outcome import _compare
from mlx_kaggle.tuning.trial import HeldOut, hold_out, paired_error
from mlx_tabtext import infer_schema
from mlx_trainer import MANIFEST, RunFolder

ROWS, EACH = 240, 8


def homes(rows: int = ROWS) -> Dependence:
    return Dependence("group", np.arange(rows) // EACH)


def days(rows: int = ROWS) -> Dependence:
    return Dependence("time", np.arange(rows) // EACH)


@given(st.integers(0, 999), st.integers(2, 20), st.sampled_from([0, 2, 3, 5]),
       st.sampled_from(["multiclass", "regression", "multilabel"]), st.booleans())  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_split_shares_a_group_and_every_class_is_kept(seed, groups, folds, task, rare):
    rng = np.random.default_rng(seed)
    codes = rng.integers(groups, size=60) * 7  # of a subset of rows: with gaps
    y = rng.integers(3, size=(60, 2)) // 2 if task == "multilabel" else rng.integers(3, size=60)
    if rare and task == "multiclass":
        y[codes == codes[0]] = 3  # the class of one group only
    splits = Dependence("group", codes).splits(y, task, folds, 0.2, seed)
    assert len(splits) <= min(max(folds, 1), len(np.unique(codes)))
    for kept, held in splits:
        assert not set(codes[kept]) & set(codes[held])
        assert sorted([*kept, *held]) == list(range(60))
        assert task == "multilabel" or set(y[kept]) == set(y)
    held = np.concatenate([held for _, held in splits] or [[]])
    assert len(set(held)) == len(held)
    if len(np.unique(codes)) > 4 and not rare:
        assert len(splits) == (folds or 1)
        assert len(held) > (30 if folds else 0)
    parts = Dependence("group", codes).parts(5, seed)
    assert sum(len(set(codes[part])) for part in parts) in (0, len(np.unique(codes)))


@given(st.integers(0, 999), st.integers(1, 20), st.sampled_from([0, 2, 5]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_split_learns_from_a_later_row(seed, times, folds, values):
    rng = np.random.default_rng(seed)
    when = rng.integers(times, size=50) * 3
    y = rng.integers(3, size=50) + (when > 0.7 * when.max())  # the last class comes late
    splits = Dependence("time", when).splits(y, "regression" if values else "multiclass", folds,
                                             0.2, seed)  # fmt: skip
    for kept, held in splits:
        assert when[kept].max() < when[held].min()
        assert values or set(y[kept]) == set(y)
    assert bool(splits) or times < 15
    parts = Dependence("time", when).parts(5, seed)
    assert all(when[a].max() < when[b].min() for a, b in pairwise(parts))


def test_without_a_dependence_splits_are_those_of_before():
    y = np.random.default_rng(0).integers(2, size=60)
    for found, before in zip(split_inside(None, y, "binary", 3, 0.0, 7),
                             split_rows(y, "binary", 3, 0.0, 7), strict=True):  # fmt: skip
        np.testing.assert_array_equal(found[1], before[1])


def test_a_generated_column_that_only_knows_group_mates_is_worth_nothing():
    group = homes().codes
    y = np.random.default_rng(0).integers(2, size=ROWS // EACH)[group]
    noise = np.random.default_rng(1).normal(size=ROWS)
    table = {"home": [f"h{each}" for each in group], "noise": noise.tolist()}
    schema = infer_schema({"noise": table["noise"]})
    mean = TargetMean("mean", "mean", "home", -1, 0, 0.0, {})
    gains = {}
    for name, dependence in (("random", None), ("group", homes()), ("time", days())):
        trial = Trial.start(schema, table, y, "binary", 0, dependence)
        gains[name] = trial.gain(Candidate("mean", (mean,)))[0]
        for fold in trial.folds if dependence else []:
            assert not set(group[fold.rest]) & set(group[fold.held])
            assert name == "group" or fold.rest.max() < fold.held.min()
    assert gains["random"] > 0.5
    assert max(gains["group"], gains["time"]) < 0.05


def test_target_means_come_from_other_groups_or_earlier_rows():
    rng = np.random.default_rng(0)
    group, y = homes().codes, rng.integers(2, size=ROWS).astype(float)
    few, many = rng.integers(40, size=ROWS), np.arange(ROWS) % 2
    mates = np.flatnonzero(group == 3)
    y[mates] = many[mates]
    table = {"few": [f"f{each}" for each in few], "many": [f"m{each}" for each in many]}
    for name, cells in (("few", few), ("many", many)):
        fitted = TargetMean(name, name, name, -1, 0, 0.0, {}).fit(table, y)
        found = fitted.transform_training(table, y, days())
        for row in range(ROWS):
            before = y[(cells == cells[row]) & (group < group[row])]
            expected = fitted._mean(before.sum(), len(before))
            assert found[row] == expected
        # Which row of a group has which target is not known to its own rows.
        moved = y.copy()
        moved[mates] = 1 - y[mates]
        again = TargetMean(name, name, name, -1, 0, 0.0, {}).fit(table, moved)
        first = fitted.transform_training(table, y, homes())
        second = again.transform_training(table, moved, homes())
        assert [first[row] for row in mates] == [second[row] for row in mates]
        assert first != second


@pytest.fixture
def grouped_job(write_csv):
    """A job on 80 rows of 10 homes and days."""

    def make(*overrides: str, homes: int = 10, leaks: bool = False, **flags):
        rng = np.random.default_rng(0)
        group = np.arange(80) % homes
        size, y = rng.normal(size=80), rng.integers(2, size=80)
        if leaks:
            size, y = size / 100 + np.sin(7.0 * group), group * 7 % 5 % 2
        table = {"home": [f"h{each}" for each in group], "day": (group + 1).tolist(),
                 "size": size.round(3).tolist(),
                 "y": y.tolist()}  # fmt: skip
        given = {"data.train": write_csv("train.csv", table), "data.target": "y", **flags}
        return prepare_job(resolve_config("quick", flags=given, overrides=list(overrides)))

    return make


BY_HOME = {"cv.scheme": "group", "cv.group": "home"}
BY_DAY = {"cv.scheme": "time", "cv.time": "day"}


def test_parts_of_blends_and_decisions_are_whole_groups_or_blocks_of_time(grouped_job):
    for flags in (BY_HOME, BY_DAY):
        job = grouped_job(**flags, folds=0, val_fraction=0.5)
        codes = job.dependence.codes[job.scored_rows]
        assert len(job.parts) > 1
        assert sum(len(set(codes[part])) for part in job.parts) == len(set(codes))
        rows, y = np.arange(80), job.encoded
        contest = Contest({}, y, Loss("log"), lambda rows, each: 0.0, True, 0, None, job.dependence)
        for part in contest.five_parts(rows[8:]):
            assert part.min() >= 8
            assert not set(job.dependence.codes[part]) & set(
                job.dependence.codes[np.setdiff1d(rows[8:], part)]
            )
    alone = parts_of([80], False, 0, Dependence("group", np.zeros(80, int)))
    assert [part.tolist() for part in alone] == [each.tolist() for each in parts_of([80], False, 0)]


def test_rows_held_out_for_a_soup_and_for_tune_are_whole_groups_or_the_last(grouped_job):
    job = grouped_job("training.soup=greedy", **BY_HOME, folds=3)
    rows, codes = job.splits[0][0], job.dependence.codes
    kept, _ = _held_out_for_soup(job, rows)
    assert 0 < len(kept) < len(rows)
    assert not set(codes[kept]) & set(codes[np.setdiff1d(rows, kept)])
    tuned, split = hold_out(job, 0.2)
    assert split is not None
    kept, held = split
    assert not set(codes[kept]) & set(codes[held])
    assert len(held) == 16
    for train, val in tuned.splits:
        assert not set(codes[val]) & set(codes[train])
        assert not {*train, *val} & {*held}
    job = grouped_job(**BY_DAY, folds=4)
    codes = job.dependence.codes
    tuned, split = hold_out(job, 0.2)
    assert split is not None
    kept, held = split
    assert codes[kept].max() < codes[held].min()
    assert len(tuned.splits) == 4
    for train, val in tuned.splits:
        assert codes[train].max() < codes[val].min()
        assert codes[val].max() < codes[held].min()


def test_the_error_of_a_tuned_score_is_that_of_groups():
    class Scored:
        def __init__(self, values):
            self.rows = self.values = values

        def score(self, rows):
            return self.values[rows].mean()

    values = np.random.default_rng(0).normal(size=ROWS // EACH)
    pair = Scored(np.zeros(ROWS)), Scored(values[homes().codes])
    found = paired_error(*pair, in_time=False, seed=0, dependence=homes())  # type: ignore[arg-type]
    assert found == pytest.approx(values.std(ddof=1) / len(values) ** 0.5)


def test_the_gain_of_tune_has_the_error_of_groups(grouped_job):
    job = grouped_job(**BY_HOME, folds=2)
    rows = np.arange(80)
    right = np.random.default_rng(0).integers(2, size=10)[rows % 10] == 1
    codes = np.where(right, job.encoded, 1 - job.encoded)
    zeros = np.zeros((80, 2))
    pair = HeldOut(job, rows, zeros, np.zeros(80, int)), HeldOut(job, rows, zeros, codes)
    by_group = paired_error(*pair, in_time=False, seed=0, dependence=job.dependence)
    assert _compare(*pair, greater=True).standard_error == pytest.approx(by_group)
    assert by_group > 1.3 * paired_error(*pair, in_time=False, seed=0)


def test_splits_that_groups_do_not_allow_are_said(grouped_job):
    said = [note for note in grouped_job(**BY_HOME, folds=2, homes=2).notes if "splits" in note]
    assert said == ["splits inside the training rows of folds 0, 1 are random: the groups of home "
                    "do not divide them with every class on both sides"]  # fmt: skip
    said = [note for note in grouped_job(**BY_HOME, folds=4, homes=4).notes if "splits" in note]
    assert said == ["splits inside the training rows of folds 0, 1, 2, 3 have 3 parts instead of "
                    "5: so few groups of home can be held out"]  # fmt: skip
    notes = grouped_job(**BY_HOME, folds=0, val_fraction=0.5, homes=2).notes
    assert "the validated rows have one of the groups of home only" in " ".join(notes)
    assert not [each for each in grouped_job(**BY_HOME, folds=5).notes if "splits" in each]
    assert grouped_job(folds=5).dependence is None


def test_the_text_network_gets_the_groups_of_its_rows(grouped_job, tiny):
    job = grouped_job(*tiny, "text.max_tokens=16", **BY_HOME, folds=2)
    how = job.config, job.competition, job.table, 0
    alone, together = (Experiment.prepare(*how, each).linear for each in (None, job.dependence))
    assert alone is not None
    assert together is not None
    assert not np.allclose(alone, together)


def test_generated_columns_of_a_fold_leave_out_group_mates(grouped_job, tmp_path):
    job = grouped_job("blend.generate=all", **BY_HOME, folds=2, homes=30)
    known = {}
    for name, each in (("random", replace(job, dependence=None)), ("group", job)):
        fold = Fold(each, 0, RunFolder(tmp_path, KIND), lambda event: None)
        fitted, train, _ = fold.fit_columns()
        names = [number.name for number in fitted.features.numbers]
        column = train.numbers[:, names.index("target mean of home")]
        known[name] = np.isfinite(column).mean()
    assert known == {"random": 1.0, "group": 0.0}


def test_the_network_and_the_blend_are_fitted_by_group(grouped_job, tiny, tmp_path):
    given = "text.max_tokens=16", "training.epochs=1", "training.learning_rate=0.01"
    job = grouped_job(*tiny, *given, **BY_HOME, folds=2)
    rng = np.random.default_rng(0)
    truth = job.encoded[job.scored_rows]
    chances = {name: np.clip(truth + rng.normal(size=80), 0.1, 0.9) for name in ("a", "b", "c")}
    chances["majority"] = np.full(80, 0.5)
    predictions = {name: np.stack([1 - each, each], 1) for name, each in chances.items()}
    found, nested = [], []
    for name, each in (("random", replace(job, dependence=None)), ("group", job)):
        folder = tmp_path / name / "members" / "fold-0-seed-0"
        run = RunFolder(tmp_path / name, KIND)
        train_network(each, job.splits[0], 0, folder, run, lambda event: None, False)
        found.append(np.load(folder / "validation.npy"))
        nested.append(blend_members(each, predictions).nested)
    assert not np.array_equal(*found)
    assert not np.array_equal(*nested)


def test_a_run_by_group_resumes_with_kept_columns(grouped_job, tmp_path):
    given = "blend.generate=none", "members=[neighbours]"
    job = grouped_job(*given, **BY_HOME, leaks=True, folds=2)
    run = RunFolder(tmp_path / "run", KIND)
    run.path.mkdir()
    before = train_members(job, run, lambda event: None).out_of_fold
    fold = Fold(job, 1, run, lambda event: None)
    fold.keep_columns(*fold.fit_columns()[1:])  # as a process does for others
    (fold.folder("neighbours") / MANIFEST).unlink()
    after = train_members(job, run, lambda event: None, resume=True).out_of_fold
    for name, each in before.items():
        np.testing.assert_array_equal(each, after[name])
    assert load_json(fold.folder("neighbours") / "neighbours.json")["count"] > 5
