"""What the commands do with a run folder: create, resume, predict with it, score with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mlx_kaggle.checks import check_columns, check_ids, check_overlap, feature_names, row_hashes
from mlx_kaggle.competition import Competition, row_count
from mlx_kaggle.config import RunConfig
from mlx_kaggle.crossval import run_job
from mlx_kaggle.display import Display
from mlx_kaggle.errors import DataError, RunError
from mlx_kaggle.estimate import estimate_run
from mlx_kaggle.experiment import predict_member
from mlx_kaggle.job import Results, prepare_job
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.model import Member
from mlx_kaggle.submission import (
    asked_of,
    check_submission,
    known_format,
    submission_columns,
    write_submission,
)
from mlx_kaggle.submission_format import Format, place_rows, probability_format, read_format
from mlx_kaggle.targets import Target, side_metrics
from mlx_kaggle.task import with_target
from mlx_tabtext import Table, read_csv
from mlx_trainer import Progress, RunFolder, load_config


def create_run(folder: Path, config: RunConfig, overwrite: bool) -> RunFolder:
    """Make the run folder, or say how to go on when one is there."""
    if (folder / "config.yaml").exists() and not overwrite:
        raise RunError(
            f"{folder}: holds a run already; add --resume, --overwrite or another --output"
        )
    return RunFolder.create(folder, config, overwrite=overwrite)


def open_run(folder: Path) -> tuple[RunFolder, RunConfig]:
    """A run folder and the configuration it was made with."""
    if not (folder / "config.yaml").is_file():
        raise RunError(f"{folder}: no config.yaml, so this is no run folder (written by train)")
    values = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    return RunFolder.open(folder), load_config(RunConfig, base=values)


def train_run(
    config: RunConfig,
    make_run: Callable[[], RunFolder] | None,
    resume: bool = False,
    as_json: bool = False,
) -> Results | None:
    """Show what was understood and how long it will take, then train; `None`: only show."""
    with Display(quiet_results=as_json) as display:
        display.machine(prepare_machine())
        job = prepare_job(config)
        display.job(job)
        run = make_run() if make_run else None
        display.estimate(estimate_run(job))
        if run is None:
            return None
        results = run_job(job, run, display.report, resume)
        display.results(results, run.path)
    return results


def predict_run(
    folder: Path,
    test: str,
    output: Path,
    sample_submission: str | None = None,
    probabilities: bool = False,
    allow_leak: bool = False,
) -> list[str]:
    """Predict, write and check a submission; return the lines to print."""
    prepare_machine()
    competition, config = _open(folder)
    table = read_csv(test, separator=config.data.separator)
    notes = check_columns(competition, table, test)
    if competition.target in table:
        notes.append(f"{test}: holds the target {competition.target!r}; it is not used to predict")
    notes += _leak(folder, competition, config, table, test, allow_leak)
    file = sample_submission
    if file is None and competition.submission_columns:
        file = _known_sample(config)
    if file is None:
        form = known_format(competition, probabilities)
        ids, rows = _ids(form, table, test), np.arange(row_count(table))
        check = "not checked: no sample submission known; give --sample-submission FILE"
    else:
        sample, asked = read_csv(file), asked_of(competition)
        form = read_format(sample, file, asked, table)
        if probabilities and probability_format(form, asked).columns != form.columns:
            raise DataError(f"{file}: has one column of labels; leave out --probabilities")
        form = probability_format(form, asked) if probabilities else form
        ids, rows, more = place_rows(form, sample, file, table, test)
        notes += more
    prediction = _predict(folder, competition, config, table)
    columns = submission_columns(competition, ids, prediction[rows], probabilities, form)
    if file is not None:
        check = "checked: " + check_submission(columns, sample, str(output), file, form.ids)
    write_submission(output, columns)
    return [*notes, f"wrote {output}: {len(rows)} rows, columns {', '.join(columns)}", check]


def evaluate_run(
    folder: Path, data: str, allow_leak: bool = False
) -> tuple[dict[str, float], list[str]]:
    """Every metric of the run's task on labelled rows, and notes."""
    prepare_machine()
    competition, config = _open(folder)
    table = read_csv(data, separator=config.data.separator)
    check_columns(competition, table, data)
    if competition.target not in table:
        raise DataError(f"{data}: no target column {competition.target!r} to compare with")
    notes = _leak(folder, competition, config, table, data, allow_leak)
    table, rows, left_out = with_target(table, competition.target, data)
    notes += left_out
    target = Target(competition, data)
    truth = target.encode(table[competition.target], rows)
    prediction = _predict(folder, competition, config, table)
    names = [competition.metric, *side_metrics(competition)]
    return {name: target.score(truth, prediction, name) for name in names}, notes


def _open(folder: Path) -> tuple[Competition, RunConfig]:
    _, config = open_run(folder)
    path = folder / "competition.json"
    if not path.is_file() or not (folder / "summary.json").is_file():
        raise RunError(
            f"{folder}: this run is not finished; continue it: train --resume --output {folder}"
        )
    return Competition.from_dict(json.loads(path.read_text("utf-8"))), config


def _predict(folder: Path, competition: Competition, config: RunConfig, table: Table) -> np.ndarray:
    folders = sorted((folder / "members").iterdir())
    predictions = []
    # One model in memory at a time, and a sign of life for each: large tables take minutes.
    with Progress(len(folders), "predicting with model") as progress:
        for each in folders:
            member = Member.load(each)
            views = config.text.views
            predictions.append(predict_member(member, competition, table, config, views))
            progress.advance()
    return Target(competition).combine(predictions)


def _leak(
    folder: Path,
    competition: Competition,
    config: RunConfig,
    table: Table,
    file: str,
    allow: bool,
) -> list[str]:
    train = np.load(folder / "train_rows.npy", allow_pickle=False)
    rows = row_hashes(table, feature_names(competition))
    note = check_overlap(train, rows, file, config.data.train, allow)
    return [note] if note else []


def _ids(form: Format, table: Table, file: str) -> dict[str, list[Any]]:
    for name in form.ids:
        if name not in table:
            raise DataError(f"{file}: no id column {name!r}, which the submission needs")
    if len(form.ids) == 1:
        check_ids(table[form.ids[0]], file, form.ids[0])
    return {name: table[name] for name in form.ids}


def _known_sample(config: RunConfig) -> str | None:
    from mlx_kaggle.competition import find_beside_train

    path = find_beside_train(config.data).get("sample_submission")
    return path if path and Path(path).is_file() else None
