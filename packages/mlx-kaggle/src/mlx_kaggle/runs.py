"""Run folders: create, resume and train a run, predict with it, evaluate it."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_encoders import find_folder
from mlx_kaggle import DataError, RunError
from mlx_kaggle.config import RunConfig
from mlx_kaggle.crossval import RUN_FILES, run_job
from mlx_kaggle.decision import Decision
from mlx_kaggle.estimate import estimate_run
from mlx_kaggle.forecasts import (
    HISTORY,
    evaluate_forecast,
    forecast_rows,
    interval_columns,
    single_target,
)
from mlx_kaggle.job import Results, members, prepare_job
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.model import MEMBER_FILES, Member
from mlx_kaggle.members.text import check_finite, predict_member
from mlx_kaggle.report.display import Display
from mlx_kaggle.tables.columns import check_columns
from mlx_kaggle.tables.competition import Competition, Format
from mlx_kaggle.tables.files import (
    drop_unlabelled,
    find_companion_files,
    index_ids,
    row_count,
    write_csv,
)
from mlx_kaggle.tables.splits import check_overlap, row_hashes
from mlx_kaggle.tables.submission import (
    check_submission,
    known_format,
    place_rows,
    probability_format,
    read_format,
    submission_columns,
)
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Table, read_table
from mlx_trainer import (
    CHECKPOINT_FILES,
    MANIFEST,
    ConfigError,
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
        *(MANIFEST, *RUN_FILES, HISTORY, "report.html"),
        *(
            f"members/fold-[0-9]*-seed-[0-9]*/{name}"
            for name in (*MEMBER_FILES, *(f"checkpoints/{each}" for each in CHECKPOINT_FILES))
        ),
    ),
)


def create_run(folder: Path, config: RunConfig, overwrite: bool) -> RunFolder:
    """Create the folder of a run; an existing run is an error unless `overwrite`."""
    return RunFolder.create(folder, config, overwrite, kind=KIND, inputs=inputs_of(config))


def resume_run(folder: Path) -> tuple[RunFolder, RunConfig]:
    """Open a run to resume it; changed inputs are an error."""
    config = read_config(folder)
    return RunFolder.resume(folder, kind=KIND, inputs=inputs_of(config)), config


def read_config(folder: Path) -> RunConfig:
    """Return the configuration of a run."""
    RunFolder.open(folder, KIND)
    return load_config(RunConfig, file=folder / "config.yaml")


def inputs_of(config: RunConfig) -> dict[str, str | Path]:
    """Return the files and folders that a run reads, by configuration key."""
    data, found = config.data, find_companion_files(config.data)
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
    """Show the inferred tables and the expected time, then train, unless `make_run` is `None`."""
    with lasting_output(), Display(as_json) as display, ExitStack() as stack:
        display.machine(prepare_machine())
        job = prepare_job(config)
        display.job(job)
        run = stack.enter_context(make_run()) if make_run else None
        if run and run.kept:
            display.note(f"{run.path}: kept {len(run.kept)} files that no run wrote")
        display.estimate(estimate_run(job))
        if run is None:
            return None
        results = run_job(job, run, display.report, resume)
        display.results(results, run.path)
    return results


@dataclass(frozen=True)
class FinishedRun:
    """A run whose models are all trained."""

    folder: Path
    config: RunConfig
    competition: Competition
    decision: Decision

    @classmethod
    def open(cls, folder: Path) -> "FinishedRun":
        """Read a run; raise `RunError` if it is not finished, `ChangedFileError` if damaged."""
        config = read_config(folder)
        remedy = f"train --resume --output {folder}"
        if not (folder / MANIFEST).is_file():
            raise RunError(f"{folder}: this run is not finished; continue it: {remedy}")
        check_manifest(folder, RUN_FILES)
        found = json.loads((folder / "competition.json").read_text("utf-8"))
        competition = Competition.from_dict(found)
        if competition.forecast:
            check_manifest(folder, (HISTORY,))
        decision = json.loads((folder / "decision.json").read_text("utf-8"))
        run = cls(folder, config, competition, Decision.from_dict(decision))
        for member in run.member_folders:
            if not (member / MANIFEST).is_file():
                raise RunError(
                    f"{member}: this model is missing, or its training did not finish; restore it, "
                    f"or train it: {remedy}"
                )
        return run

    @property
    def member_folders(self) -> list[Path]:
        """The folder of every model of the configuration."""
        return [self.folder / "members" / name for name, _, _ in members(self.config)]

    def read(self, file: str, allow_leak: bool) -> tuple[Table, list[str]]:
        """Read a table, check its columns and for a leak; return it with notes."""
        table = read_table(file, separator=self.config.data.separator)
        notes = check_columns(self.competition, table, file)
        train = np.load(self.folder / "train_rows.npy", allow_pickle=False)
        rows = row_hashes(table, self.competition.feature_names)
        leak = check_overlap(train, rows, file, self.config.data.train, allow_leak)
        return table, [*notes, *([leak] if leak else [])]

    @property
    def history(self) -> Table:
        """The rows that a forecast starts from."""
        return read_table(str(self.folder / HISTORY))

    def predict(self, table: Table, file: str) -> np.ndarray:
        """Return the mean prediction of all models."""
        predictions = []
        # One model in memory at a time; progress after each, because large tables take minutes.
        with Progress(len(self.member_folders), "predicting with model") as progress:
            for folder in self.member_folders:
                member, tta = Member.load(folder), self.config.text.tta
                prediction = predict_member(member, self.competition, table, self.config, tta)
                check_finite(prediction, folder, file)
                predictions.append(prediction)
                progress.advance()
        return Target(self.competition).combine(predictions)

    def decide(self, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Apply the calibration and thresholds fitted on the held-out rows of the training."""
        return self.decision.apply(self.competition, prediction)

    def predict_decided(self, table: Table, file: str) -> np.ndarray:
        """Return the prediction with fitted intervals, for a forecast."""
        return self.decide(self.predict(table, file))[0]


def predict_run(
    folder: Path,
    test: str | None,
    output: Path,
    sample_submission: str | None = None,
    probabilities: bool = False,
    allow_leak: bool = False,
) -> list[str]:
    """Predict, write and check a submission; return the lines to print."""
    prepare_machine()
    run = FinishedRun.open(folder)
    competition = run.competition
    _check_output(output, run, test, sample_submission)
    if competition.forecast:
        separator = run.config.data.separator
        table = read_table(test, separator=separator) if test else None
        competition = single_target(competition, with_sample=test is not None)
        test = test or HISTORY
        table, prediction, notes = forecast_rows(
            run.competition, run.history, table, test, run.predict_decided
        )
    elif test is None:
        raise ConfigError("Missing option '--test'; only a forecast run predicts without a table.")
    else:
        (table, notes), prediction = run.read(test, allow_leak), None
    if competition.target in table and not run.competition.forecast:
        notes.append(f"{test}: has the target {competition.target!r}; it is not used to predict")
    file = sample_submission
    if file is None and competition.submission_columns:
        found = find_companion_files(run.config.data)["sample_submission"]
        file = found if found and Path(found).is_file() else None
    if file is None:
        sample, form = None, known_format(competition, probabilities)
        ids, rows = _ids(form, table, test), np.arange(row_count(table))
    else:
        sample = read_table(file, separator=run.config.data.separator)
        form = read_format(sample, file, competition, table)
        if probabilities and probability_format(form, competition).columns != form.columns:
            raise DataError(f"{file}: has one column of labels; omit --probabilities")
        form = probability_format(form, competition) if probabilities else form
        ids, rows, more = place_rows(form, sample, file, table, test)
        notes += more
    if prediction is None:
        prediction, codes = run.decide(run.predict(table, test)[rows])
    else:
        prediction, codes = prediction[rows], None
    columns = submission_columns(competition, ids, prediction, probabilities, form, codes)
    if run.competition.forecast and sample is None:
        columns |= interval_columns(competition.target, prediction)
    check = "not checked: no sample submission known; give --sample-submission FILE"
    if file and sample:
        check = "checked: " + check_submission(columns, sample, str(output), file, form.ids)
    write_csv(output, columns)
    return [*notes, f"wrote {output}: {len(rows)} rows, columns {', '.join(columns)}", check]


def _check_output(output: Path, run: FinishedRun, *read: str | None) -> None:
    """Refuse an output that is inside the run, is an input, or is not writable."""
    if output.resolve().is_relative_to(run.folder.resolve()):
        raise RunError(f"{output}: is in the run {run.folder}; choose an --output outside of it")
    inputs = [*read, *inputs_of(run.config).values()]
    if output.exists() and any(each and Path(each).samefile(output) for each in inputs):
        raise RunError(f"{output}: is an input of this command or its run; choose another --output")
    check_output(output)


def _ids(form: Format, table: Table, file: str) -> dict[str, list[Any]]:
    for name in form.ids:
        if name not in table:
            raise DataError(f"{file}: no id column {name!r}, which the submission needs")
    if len(form.ids) == 1:
        index_ids([table[form.ids[0]]], form.ids, file)
    return {name: table[name] for name in form.ids}


def evaluate_run(
    folder: Path, data: str, allow_leak: bool = False
) -> tuple[dict[str, float], list[str]]:
    """Return every metric of the task on labelled rows, and notes."""
    prepare_machine()
    run = FinishedRun.open(folder)
    target = Target(run.competition, data)
    name = run.competition.target
    if run.competition.forecast:
        table = read_table(data, separator=run.config.data.separator)
        return evaluate_forecast(run.competition, run.history, table, data, run.predict_decided)
    table, notes = run.read(data, allow_leak)
    if name not in table:
        raise DataError(f"{data}: no target column {name!r} to compare with")
    table, rows, more = drop_unlabelled(table, name, data)
    truth = target.encode(table, rows)
    return target.scores(truth, *run.decide(run.predict(table, data))), notes + more
