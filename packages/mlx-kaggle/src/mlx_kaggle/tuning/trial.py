"""One trial: a configuration, cross-validated as `train` does, or scored on held-out rows."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle import RunError
from mlx_kaggle.blend import Blend
from mlx_kaggle.members.catalog import CONSTANT, PLAIN, TEXT
from mlx_kaggle.prediction.blended import Results, aligned, blend_members, results_of
from mlx_kaggle.prediction.decision import Decision
from mlx_kaggle.runs.folder import KIND
from mlx_kaggle.tables.dependence import Dependence, split_inside
from mlx_kaggle.tables.splits import Split, time_splits
from mlx_kaggle.training.crossval import train_members
from mlx_kaggle.training.job import Job
from mlx_kaggle.training.text_trial import needs_trial
from mlx_kaggle.training.trained import Trained
from mlx_trainer import ConfigError, RunFolder

FOLDER = "trial"
# Groups of rows that the standard error of a difference is estimated by.
GROUPS = 200


def fix_members(job: Job) -> tuple[Job, list[str]]:
    """Return a job whose configuration names its members, the same in every trial; and notes."""
    members, notes = list(job.members), []
    if needs_trial(job):
        members.remove(TEXT)
        notes = ["the text network is not tuned, as no column is prose; name it in --members"]
    named = tuple(name for name in members if name not in (CONSTANT, PLAIN))
    if job.variants:
        notes.append("variants of members are not tuned; train measures them")
    config = replace(job.config, members=named)
    return replace(job, config=config, members=members, variants=[]), notes


def hold_out(job: Job, share: float) -> tuple[Job, Split | None]:
    """Return the job of the study, and (rows to train on, held-out rows) for the end.

    The folds stay as they are, without the held-out rows, which are whole groups of folds by group.
    Of a forecast the last fold is held out. Of times the last ones are, and the others are divided
    again.
    """
    if not share:
        return job, None
    if job.competition.task == "forecast":
        if len(job.splits) < 3:
            raise ConfigError("tuning a forecast holds out its last fold: give --folds 3 or more, "
                              "or --holdout 0")  # fmt: skip
        return replace(job, splits=job.splits[:-1]), job.splits[-1]
    pool = job.splits[0][0] if job.config.data.val else np.arange(len(job.encoded))
    dependence = job.dependence_of(pool)
    how = job.encoded[pool], job.competition.task, 0, share, job.config.seed
    ((kept, held),) = split_inside(dependence, *how)
    kept, held = np.sort(pool[kept]), np.sort(pool[held])
    splits = [(train[~np.isin(train, held)], val[~np.isin(val, held)]) for train, val in job.splits]
    if dependence and dependence.kind == "time":
        step = dependence.codes[kept]
        again = time_splits(step, step + 1, job.config.fold_count, job.config.val_fraction)
        splits = [(kept[train], kept[val]) for train, val in again]
    if not all(len(train) and len(val) for train, val in splits):
        raise ConfigError(f"--holdout {share} leaves a fold without rows; give a smaller one, or 0")
    return replace(job, splits=splits), (kept, held)


class Folder:
    """A folder for the models of a trial, deleted after it."""

    def __init__(self, output: Path):
        self.path = output / FOLDER

    def __enter__(self) -> RunFolder:
        shutil.rmtree(self.path, ignore_errors=True)  # of a trial that was killed
        self.path.mkdir(parents=True)
        return RunFolder(self.path, KIND)

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def cross_validate(job: Job, output: Path, after_fold: Callable[[int, float], None]) -> Results:
    """Train on every fold, and blend and score as `train` does.

    `after_fold` gets the number of the fold, from 0, and the score of the rows so far, but not for
    the first and the last fold; what it raises ends the trial.
    """

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "fold_end" and 0 < event["fold"] < len(job.splits) - 1:
            after_fold(event["fold"], _score_so_far(event["found"], event["fold"] + 1))

    with Folder(output) as run:
        trained = train_members(job, run, report)
    results = results_of(
        job,
        trained.out_of_fold,
        trained.times,
        histories=trained.histories,
        notes=trained.notes,
        seconds=sum(trained.times.values()),
    )
    if not np.isfinite(results.score):
        raise RunError(f"its {job.competition.metric} is {results.score}")
    return results


def _score_so_far(found: Trained, folds: int) -> float:
    """Return what the score would be if there were no more folds.

    It must be of the blend: on titanic the score of the mean of the members ranks trials otherwise,
    and pruning by it ended every trial that the sampler took for good.
    """
    # As one validation set: two folds are too few to choose on one and score on the other.
    val = np.concatenate([val for _, val in found.job.splits[:folds]])
    job = replace(found.job, splits=[(found.job.splits[0][0], val)])
    nested = blend_members(job, found.out_of_fold).nested
    return job.decided_scores(nested, job.decide(nested))[job.competition.metric]


@dataclass(frozen=True)
class HeldOut:
    """What a configuration predicts for the rows that were not used for tuning."""

    job: Job
    rows: np.ndarray
    prediction: np.ndarray
    codes: np.ndarray | None

    def score(self, some: np.ndarray | None = None) -> float:
        """Return the metric, of some of the rows by position."""
        some = np.arange(len(self.rows)) if some is None else some
        codes = None if self.codes is None else self.codes[some]
        return self.job.score_rows(self.rows[some], self.prediction[some], codes)


def predict_held_out(
    job: Job, split: Split, blend: dict[str, Any], decision: dict[str, Any], output: Path
) -> HeldOut:
    """Train on all rows of the study; `blend` and `decision` were fitted to its folds."""
    job = replace(job, splits=[split])
    with Folder(output) as run:
        trained = train_members(job, run, lambda event: None)
    found = aligned(job.competition, trained.out_of_fold)
    blended = Blend.from_dict(blend).apply(found)
    decided = Decision.from_dict(decision).apply(job.competition, blended)
    return HeldOut(job, split[1], *decided)


def fitted(results: Results) -> dict[str, str]:
    """Return blend and decision of a trial as JSON texts."""
    return {
        "blend": json.dumps(results.choice.blend.to_dict()),
        "decision": json.dumps(results.decision.to_dict()),
    }


def paired_error(
    untuned: HeldOut,
    tuned: HeldOut,
    in_time: bool,
    seed: int,
    dependence: Dependence | None = None,
) -> float:
    """Return the standard error of the difference of two scores of the same rows.

    By the jackknife over groups of rows (Efron and Stein 1981), for any metric; neighbouring rows
    of a forecast share a group, and so do those that the `dependence` of the rows says.
    """
    count = len(untuned.rows)
    order = np.arange(count) if in_time else np.random.default_rng(seed).permutation(count)
    groups = dependence.parts(GROUPS, seed) if dependence else []
    groups = groups or np.array_split(order, min(count, GROUPS))
    left = [np.setdiff1d(order, group) for group in groups]
    changes = np.array([tuned.score(rows) - untuned.score(rows) for rows in left if len(rows)])
    factor = (len(groups) - 1) / len(groups)
    return float(np.sqrt(factor * np.square(changes - changes.mean()).sum()))
