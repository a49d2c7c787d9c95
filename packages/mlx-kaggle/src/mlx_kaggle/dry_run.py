"""What a command would do and write: `--dry-run` says it, changes nothing and asks no server."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_kaggle.settings.config import RunConfig
from mlx_trainer import MANIFEST, RunFolder, lasting_output

if TYPE_CHECKING:  # it imports the models
    from mlx_kaggle.training.job import Job


def show_plan(would: Sequence[str], as_json: bool, **values: Any) -> None:
    """Print each line after "would", or all of them in a JSON document with the values."""
    if as_json:
        click.echo(json.dumps({"dry_run": True, "would": list(would), **values}))
        return
    for line in would:
        click.echo(f"would {line}")


def plan_file(path: Path) -> str:
    """Say how a file would be written; raise `IsADirectoryError` for a folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    return f"replace {path} ({path.stat().st_size:,} bytes)" if path.exists() else f"write {path}"


def plan_folder(path: Path, replaced: Sequence[Path], content: str) -> str:
    """Say how a run folder would be written, after `RunFolder.check_create`."""
    instead = f" instead of {len(replaced)} files of the run there" if replaced else ""
    return f"write {path}{instead}: {content}"


def local_encoder(config: RunConfig) -> tuple[RunConfig, str]:
    """Return the configuration with the encoder's folder here, and the hub id if there is none."""
    from mlx_encoders import find_folder

    path = config.encoder.path
    if not path:
        return config, ""
    try:
        folder = find_folder(path, local_only=True)
    except FileNotFoundError as error:
        if error.__cause__ is None:  # a path, and no hub id
            raise
        return config, path
    return replace(config, encoder=replace(config.encoder, path=str(folder))), ""


def plan_run(
    config: RunConfig, output: Path | None, overwrite: bool, as_json: bool, repeats: int = 1
) -> tuple[list[str], dict[str, Any]]:
    """Show the tables and the expected time; return what a training would do, and its counts.

    Without an `output` nothing of the run is kept. Raises what the training would raise at once.
    """
    from mlx_kaggle.runs.folder import KIND, inputs_of, tables_of

    with lasting_output():
        job, absent, seconds = _prepared(config, as_json)
    would, values = _training(job, absent, seconds, repeats)
    if output is None:
        return [*would, "write nothing: the models are deleted at the end"], values
    inputs = tables_of(job.config) if absent else inputs_of(job.config)
    replaced = RunFolder.check_create(output, overwrite, kind=KIND, inputs=inputs)
    content = f"config.yaml, {values['models']} models, predictions, scores, report.html"
    would.append(plan_folder(output, replaced, content))
    return would, {**values, "output": str(output), "replaced": len(replaced)}


def plan_resumed(
    config: RunConfig, folder: Path, as_json: bool
) -> tuple[list[str], dict[str, Any]]:
    """Show the tables of a run, and return what is left to do in it."""
    with lasting_output():
        job, absent, seconds = _prepared(config, as_json)
    would, values = _training(job, absent, seconds, 1)
    done = [each for each in folder.glob(f"members/*/{MANIFEST}")
            if not each.parent.name.startswith("columns-")]  # fmt: skip
    line = f"go on in {folder}, where {len(done)} models are finished"
    return [*would, line], {**values, "output": str(folder), "finished": len(done)}


def _prepared(config: RunConfig, as_json: bool) -> "tuple[Job, str, float | None]":
    """Return the job, the encoder that is not here, and the expected seconds without one."""
    from mlx_kaggle.machine import prepare_machine
    from mlx_kaggle.report.display import Display
    from mlx_kaggle.runs.tracking import check_installed
    from mlx_kaggle.training.estimate import estimate_run
    from mlx_kaggle.training.job import prepare_job

    config, absent = local_encoder(config)
    with Display(as_json) as display:
        check_installed(config.report_to)
        display.machine(prepare_machine())
        job = prepare_job(config)
        display.job(job)
        if absent:
            return job, absent, None
        estimate = estimate_run(job)
        display.estimate(estimate)
    return job, absent, estimate.seconds


def _training(
    job: "Job", absent: str, seconds: float | None, repeats: int
) -> tuple[list[str], dict[str, Any]]:
    from mlx_kaggle.members.catalog import TEXT, label_of
    from mlx_kaggle.tables.files import row_count
    from mlx_kaggle.training.text_trial import needs_trial

    folds, rows = len(job.splits), row_count(job.table)
    tried = needs_trial(job)
    of_fold = len(job.members) - tried
    of_fold += (job.config.training.seeds - 1) * (TEXT in job.members and not tried)
    models = of_fold * folds * repeats
    competition = job.competition
    names = ", ".join(
        label_of(competition, name) for name in job.members if name != TEXT or not tried
    )
    times = f", {repeats} times" if repeats > 1 else ""
    would = [f"download the encoder {absent}, of which no copy is here"] if absent else []
    would.append(f"train {names} on {folds} folds of {rows} rows{times}: {models} models")
    if tried:
        would.append("try the text network on the first fold, and train it if it helps")
    if job.config.report_to:
        would.append(f"send the run to {', '.join(job.config.report_to)}")
    return would, {
        "task": competition.task,
        "targets": list(competition.targets),
        "metric": competition.metric,
        "rows": rows,
        "members": job.members,
        "folds": folds,
        "models": models,
        "seconds": None if seconds is None else seconds * repeats,
        "notes": job.notes,
    }
