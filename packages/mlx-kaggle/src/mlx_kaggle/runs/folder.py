"""Run folders: create, resume and train a run."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlx_encoders import find_folder
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.catalog import is_text, member_names
from mlx_kaggle.members.model import MEMBER_FILES
from mlx_kaggle.members.soup import FILES as SOUP_FILES
from mlx_kaggle.members.variants import PSEUDO
from mlx_kaggle.prediction.blended import Results
from mlx_kaggle.prediction.forecasts import (
    HISTORY,
)
from mlx_kaggle.report.display import Display
from mlx_kaggle.runs.tracking import SUBMISSIONS, TRACKING, Mirror, check_installed
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.settings.default_preset import remember_encoder
from mlx_kaggle.tables.files import (
    find_companion_files,
)
from mlx_kaggle.training.crossval import EMBEDDINGS, TRIAL
from mlx_kaggle.training.estimate import estimate_run
from mlx_kaggle.training.finish import RUN_FILES, Processes, run_job
from mlx_kaggle.training.job import prepare_job
from mlx_trainer import (
    CHECKPOINT_FILES,
    MANIFEST,
    RunFolder,
    RunKind,
    lasting_output,
    load_config,
)
from mlx_trainer.run import METRICS

# Of the files of members other than the text.
ENDINGS = ("json", "npy", "npz", "safetensors", "skops", "txt", "ubj", "cbm")
KIND = RunKind(
    "mlx-kaggle",
    (
        *(MANIFEST, *RUN_FILES, HISTORY, TRIAL, EMBEDDINGS, "report.html", TRACKING, SUBMISSIONS),
        *(
            f"members/fold-[0-9]*-seed-[0-9]*/{name}"
            for name in (
                *(*MEMBER_FILES, METRICS),
                *(f"checkpoints/{each}" for each in (*CHECKPOINT_FILES, SOUP_FILES)),
            )
        ),
        *(
            f"members/{name}-fold-[0-9]*/{inner}[a-z]*.{ending}"
            for name in ("columns", PSEUDO, *member_names())
            if not is_text(name)
            for inner in ("", "tabular-[0-9]*/", "linear/", "trees/")
            for ending in ENDINGS
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
    inputs = tables_of(config)
    if config.encoder.path:
        inputs["encoder.path"] = find_folder(config.encoder.path)
    return inputs


def tables_of(config: RunConfig) -> dict[str, str | Path]:
    """Return the tables that a run reads, by configuration key."""
    data, found = config.data, find_companion_files(config.data)
    named = {"data.train": data.train, "data.val": data.val}
    named |= {f"data.{name}": path for name, path in found.items()}
    inputs: dict[str, str | Path] = {key: path for key, path in named.items() if path}
    if config.cv.scheme.endswith(".csv"):
        inputs["cv.scheme"] = config.cv.scheme
    return inputs


def train_run(
    config: RunConfig,
    make_run: Callable[[], RunFolder],
    resume: bool = False,
    as_json: bool = False,
    processes: Processes | None = None,
    is_kept: bool = True,
    is_quiet: bool = False,
) -> Results:
    """Show the inferred tables and the expected time, then train.

    `processes` gives the executor of those that train side by side. If the folder is not kept, it
    is not named in the end; `is_quiet` leaves the scores to the caller.
    """
    with lasting_output(), Display(as_json) as display, ExitStack() as stack:
        check_installed(config.report_to)
        display.machine(prepare_machine())
        job = prepare_job(config)
        display.job(job)
        run = stack.enter_context(make_run())
        if run.kept:
            display.note(f"{run.path}: kept {len(run.kept)} files that no run wrote")
        display.estimate(estimate_run(job))
        mirror = stack.enter_context(Mirror(run.path, config.report_to, display.note))

        def report(event: dict[str, Any]) -> None:
            display.report(event)
            mirror.report(event)

        results = run_job(job, run, report, resume, processes)
        if processes:  # whose networks report nothing here
            for entry in run.metrics():
                mirror.report(entry)
        mirror.finish()
        if not is_quiet:
            display.results(results, run.path if is_kept else None)
        if config.encoder.path:
            remember_encoder(config.encoder.path)
    return results
