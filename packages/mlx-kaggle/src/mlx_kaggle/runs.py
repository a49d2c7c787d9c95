"""What the commands do with a run folder: create, resume, predict with it, score with it."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mlx_encoders import find_folder
from mlx_kaggle.config import RunConfig
from mlx_kaggle.crossval import RUN_FILES, run_job
from mlx_kaggle.errors import DataError, RunError
from mlx_kaggle.estimate import estimate_run
from mlx_kaggle.job import Results, members, prepare_job
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.experiment import predict_member
from mlx_kaggle.members.model import MEMBER_FILES, Member
from mlx_kaggle.report.display import Display
from mlx_kaggle.tables.checks import (
    check_columns,
    check_finite,
    check_ids,
    check_overlap,
    feature_names,
    row_hashes,
)
from mlx_kaggle.tables.competition import Competition, find_beside_train, row_count
from mlx_kaggle.tables.submission import (
    asked_of,
    check_submission,
    known_format,
    submission_columns,
    write_submission,
)
from mlx_kaggle.tables.submission_format import Format, place_rows, probability_format, read_format
from mlx_kaggle.tables.targets import Target, side_metrics
from mlx_kaggle.tables.task import with_target
from mlx_tabtext import Table, read_table
from mlx_trainer import (
    CHECKPOINT_FILES,
    MANIFEST,
    Progress,
    RunFolder,
    RunKind,
    check_manifest,
    check_output,
    lasting_output,
    load_config,
)

KIND = RunKind(
    "mlx-kaggle",
    (
        *(MANIFEST, *RUN_FILES, "report.html"),
        *(
            f"members/fold-[0-9]*-seed-[0-9]*/{name}"
            for name in (*MEMBER_FILES, *(f"checkpoints/{each}" for each in CHECKPOINT_FILES))
        ),
    ),
)


def create_run(folder: Path, config: RunConfig, overwrite: bool) -> RunFolder:
    """Make the run folder, or say how to go on when one is there."""
    return RunFolder.create(folder, config, overwrite, kind=KIND, inputs=inputs_of(config))


def resume_run(folder: Path) -> tuple[RunFolder, RunConfig]:
    """A run folder to go on with, and its configuration; its inputs must be what they were."""
    _, config = open_run(folder)
    return RunFolder.resume(folder, kind=KIND, inputs=inputs_of(config)), config


def open_run(folder: Path) -> tuple[RunFolder, RunConfig]:
    """A run folder to read, and the configuration it was made with."""
    run = RunFolder.open(folder, KIND)
    return run, load_config(RunConfig, file=folder / "config.yaml")


def inputs_of(config: RunConfig) -> dict[str, str | Path]:
    """The files and folders that a run reads, by the keys of the configuration."""
    data, found = config.data, find_beside_train(config.data)
    named = {"data.train": data.train, "data.val": data.val}
    named |= {f"data.{name}": path for name, path in found.items()}
    inputs: dict[str, str | Path] = {key: path for key, path in named.items() if path}
    if config.encoder.path:
        inputs["encoder.path"] = find_folder(config.encoder.path)
    return inputs


def train_run(
    config: RunConfig,
    make_run: Callable[[], RunFolder] | None,
    resume: bool = False,
    as_json: bool = False,
) -> Results | None:
    """Show what was understood and how long it will take, then train; `None`: only show."""
    with lasting_output(), Display(quiet_results=as_json) as display, ExitStack() as stack:
        display.machine(prepare_machine())
        job = prepare_job(config)
        display.job(job)
        run = stack.enter_context(make_run()) if make_run else None
        if run and run.kept:
            display.note(f"{run.path}: kept {len(run.kept)} files that are not a run's")
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
    if output.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{output}: lies in the run {folder}; choose an --output outside of it")
    read = [test, sample_submission, *inputs_of(config).values()]
    if output.exists() and any(each and Path(each).samefile(output) for each in read):
        raise RunError(f"{output}: is read by this command or its run; choose another --output")
    check_output(output)
    table = read_table(test, separator=config.data.separator)
    notes = check_columns(competition, table, test)
    if competition.target in table:
        notes.append(f"{test}: holds the target {competition.target!r}; it is not used to predict")
    notes += _leak(folder, competition, config, table, test, allow_leak)
    file, sample = sample_submission, None
    check = "not checked: no sample submission known; give --sample-submission FILE"
    if file is None and competition.submission_columns:
        file = _known_sample(config)
    if file is None:
        form = known_format(competition, probabilities)
        ids, rows = _ids(form, table, test), np.arange(row_count(table))
    else:
        sample, asked = read_table(file, separator=config.data.separator), asked_of(competition)
        form = read_format(sample, file, asked, table)
        if probabilities and probability_format(form, asked).columns != form.columns:
            raise DataError(f"{file}: has one column of labels; leave out --probabilities")
        form = probability_format(form, asked) if probabilities else form
        ids, rows, more = place_rows(form, sample, file, table, test)
        notes += more
    prediction = _predict(folder, competition, config, table, test)
    columns = submission_columns(competition, ids, prediction[rows], probabilities, form)
    if file and sample:
        check = "checked: " + check_submission(columns, sample, str(output), file, form.ids)
    write_submission(output, columns)
    return [*notes, f"wrote {output}: {len(rows)} rows, columns {', '.join(columns)}", check]


def evaluate_run(
    folder: Path, data: str, allow_leak: bool = False
) -> tuple[dict[str, float], list[str]]:
    """Every metric of the run's task on labelled rows, and notes."""
    prepare_machine()
    competition, config = _open(folder)
    table = read_table(data, separator=config.data.separator)
    notes = check_columns(competition, table, data)
    if competition.target not in table:
        raise DataError(f"{data}: no target column {competition.target!r} to compare with")
    notes += _leak(folder, competition, config, table, data, allow_leak)
    table, rows, left_out = with_target(table, competition.target, data)
    notes += left_out
    target = Target(competition, data)
    truth = target.encode(table[competition.target], rows)
    prediction = _predict(folder, competition, config, table, data)
    names = [competition.metric, *side_metrics(competition)]
    return {name: target.score(truth, prediction, name) for name in names}, notes


def _open(folder: Path) -> tuple[Competition, RunConfig]:
    _, config = open_run(folder)
    if not (folder / MANIFEST).is_file():
        raise RunError(
            f"{folder}: this run is not finished; continue it: train --resume --output {folder}"
        )
    check_manifest(folder, RUN_FILES)
    for member in member_folders(folder, config):
        if not (member / MANIFEST).is_file():
            raise RunError(
                f"{member}: this model is not there, or not trained to the end; bring it back, or "
                f"train it: train --resume --output {folder}"
            )
    competition = json.loads((folder / "competition.json").read_text("utf-8"))
    return Competition.from_dict(competition), config


def member_folders(folder: Path, config: RunConfig) -> list[Path]:
    """The folder of every model that the configuration asks for."""
    return [folder / "members" / name for name, _, _ in members(config)]


def _predict(
    folder: Path, competition: Competition, config: RunConfig, table: Table, file: str
) -> np.ndarray:
    folders = member_folders(folder, config)
    predictions = []
    # One model in memory at a time, and a sign of life for each: large tables take minutes.
    with Progress(len(folders), "predicting with model") as progress:
        for each in folders:
            member = Member.load(each)
            views = config.text.views
            prediction = predict_member(member, competition, table, config, views)
            check_finite(prediction, each, file)
            predictions.append(prediction)
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
    path = find_beside_train(config.data).get("sample_submission")
    return path if path and Path(path).is_file() else None
