"""Tune the members of a run: trials on its folds, and what they gained on rows not used for it."""

# Optuna is an extra.
# pyright: reportMissingImports=false

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import click
import yaml

from mlx_heads import get_metric
from mlx_kaggle import RunError
from mlx_kaggle.dry_run import local_encoder, plan_folder, show_plan
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.saved import save_json
from mlx_kaggle.report.display import Display
from mlx_kaggle.runs.folder import inputs_of
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.splits import Split
from mlx_kaggle.training.estimate import estimate_run
from mlx_kaggle.training.job import Job, prepare_job
from mlx_kaggle.tuning.config import TuneConfig
from mlx_kaggle.tuning.outcome import Outcome, TrialRow, outcome_of
from mlx_kaggle.tuning.space import Dimension, default_space, parse_space, read_space, with_params
from mlx_kaggle.tuning.trial import (
    fix_members,
    hold_out,
)
from mlx_trainer import (
    ConfigError,
    RunFolder,
    RunKind,
    dump_config,
    fingerprint,
    lasting_output,
    load_config,
    write_atomic,
)

DATABASE, BEST, PAGE, SUMMARY = "study.db", "best.yaml", "tune.html", "tune.json"
KIND = RunKind("mlx-kaggle tune", (f"{DATABASE}*", BEST, PAGE, SUMMARY))
MISSING = "tune needs Optuna: pip install 'mlx-kaggle[tune]'"


@dataclass(frozen=True)
class Call:
    """What one call of `tune` does with a study."""

    output: Path
    storage: str | None = None
    trials: int | None = None
    """Instead of that of the configuration."""
    timeout: float | None = None
    overwrite: bool = False
    dry_run: bool = False
    as_json: bool = False


def start_tuning(config: TuneConfig, space: Path | None, call: Call) -> Outcome | None:
    """Create a study, or join one in a storage; return what it found."""
    with lasting_output(), Display(call.as_json) as display, ExitStack() as stack:
        config, absent = _here(config) if call.dry_run else (config, "")
        job, split = _prepare(config, display)
        dimensions = read_space(space, job) if space else default_space(job)
        config = replace(
            config,
            run=job.config,
            worker=uuid4().hex,
            own_storage=call.storage is None,
            space={each.key: each.to_dict() for each in dimensions},
        )
        _show_space(display, config, dimensions, job, split)
        if call.dry_run:
            replaced = RunFolder.check_create(
                call.output, call.overwrite, kind=KIND, inputs={} if absent else _inputs(config.run)
            )
            content = f"{DATABASE}, {BEST}, {SUMMARY}, {PAGE}"
            writes = plan_folder(call.output, replaced, content)
            _show_plan(job, config, dimensions, call, writes, absent)
            return None
        run = stack.enter_context(
            RunFolder.create(
                call.output, config, call.overwrite, kind=KIND, inputs=_inputs(config.run)
            )
        )
        return _tune(config, dimensions, job, split, call, run, display)


def resume_tuning(call: Call) -> Outcome | None:
    """Continue the study of a folder."""
    with lasting_output(), Display(call.as_json) as display, ExitStack() as stack:
        config = read_tune_config(call.output)
        if not config.own_storage and call.storage is None:
            raise ConfigError(f"{call.output}: this study is in another storage, which is not kept "
                              f"because it may hold a password; give --storage")  # fmt: skip
        if config.own_storage and call.storage is not None:
            raise ConfigError(f"--storage: the study of {call.output} is in its {DATABASE}")
        run, absent = None, ""
        if call.dry_run:
            config, absent = _here(config)
        else:
            run = stack.enter_context(
                RunFolder.resume(call.output, kind=KIND, inputs=_inputs(config.run))
            )
        job, split = _prepare(config, display)
        dimensions = parse_space(config.space, job)
        _show_space(display, config, dimensions, job, split)
        if run is None:
            writes = f"go on with the study in {call.output}"
            _show_plan(job, config, dimensions, call, writes, absent)
            return None
        return _tune(config, dimensions, job, split, call, run, display)


def _here(config: TuneConfig) -> tuple[TuneConfig, str]:
    run, absent = local_encoder(config.run)
    return replace(config, run=run), absent


def _show_plan(job: Job, config: TuneConfig, space: list[Dimension], call: Call, writes: str,
               absent: str) -> None:  # fmt: skip
    trials, folds = call.trials or config.trials, len(job.splits)
    estimate = None if absent else estimate_run(job)
    would = [f"download the encoder {absent}, of which no copy is here"] if absent else []
    each = f"one with the columns of the folds takes {estimate}" if estimate else "time unknown"
    would += [f"run trials until {trials} are finished, of {len(space)} settings on {folds} folds; "
              f"{each}", writes]  # fmt: skip
    show_plan(would, call.as_json, trials=trials, folds=folds, members=job.members,
              space=[each.key for each in space], output=str(call.output),
              seconds_of_a_trial=estimate and estimate.seconds)  # fmt: skip


def read_tune_config(folder: Path) -> TuneConfig:
    """Return the configuration of a study."""
    RunFolder.open(folder, KIND)
    return load_config(TuneConfig, file=folder / "config.yaml")


def _inputs(config: RunConfig) -> dict[str, str | Path]:
    return {f"run.{key}": path for key, path in inputs_of(config).items()}


def _prepare(config: TuneConfig, display: Display) -> tuple[Job, Split | None]:
    """Return the job of the trials, and (training rows, held-out rows)."""
    display.machine(prepare_machine())
    job, notes = fix_members(prepare_job(config.run))
    job, split = hold_out(job, config.holdout)
    display.job(job)
    for note in notes:
        display.note(note)
    return job, split


def _show_space(
    display: Display,
    config: TuneConfig,
    space: list[Dimension],
    job: Job,
    split: Split | None,
) -> None:
    say = display.console.print
    rows = f"{len(job.scored_rows)} scored rows in {len(job.splits)} folds"
    held = f"{len(split[1])} rows held out for the end" if split else "no rows held out"
    say(f"study {config.study!r}: {config.trials} trials, {rows}, {held}")
    if len(job.splits) < 2:
        say("note: no trial is pruned, because there are no folds")
    width = max(len(each.key) for each in space)
    for each in space:
        if each.choices:
            what = ", ".join(map(str, each.choices))
        else:
            step = f", step {each.step:g}" if each.step else ""
            what = f"{each.low:g} to {each.high:g}{', log' if each.log else ''}{step}"
        say(f"  {each.key:{width}}  {what}")


def _tune(
    config: TuneConfig,
    space: list[Dimension],
    job: Job,
    split: Split | None,
    call: Call,
    run: RunFolder,
    display: Display,
) -> Outcome:
    from mlx_kaggle.tuning.objective import Objective, TrialFailed, TrialSkipped
    from mlx_kaggle.tuning.page import write_page
    from mlx_kaggle.tuning.study import PlacedSampler, counted, end_killed, open_study, run_trials

    greater = get_metric(job.competition.metric).greater_is_better
    url = call.storage or f"sqlite:///{(run.path / DATABASE).resolve()}"
    trials = call.trials or config.trials
    described = _described(config, job)
    with open_study(url, config.study, greater, described, len(job.splits)) as study:
        distributions = {each.key: each.distribution() for each in space}
        study.sampler = PlacedSampler(distributions, config.run.seed)
        if killed := end_killed(study, config.worker):
            display.note(f"{killed} trial was running when the study was killed; it is repeated")
        done = counted(study)
        display.console.print(f"{len(done)} of {trials} trials are finished")
        display.start(trials, "tuning", completed=min(len(done), trials))

        def after() -> None:
            now = counted(study)
            rows = [TrialRow.of(each, place, len(job.splits)) for place, each in now.items()]
            best = Outcome.best_of(rows, greater)
            shown = {} if best is None else {"best": best.value}
            display.advance(max(len(now) - display.completed, 0), **shown)  # type: ignore[arg-type]

        def waiting(count: int) -> None:
            display.say(f"waiting for {count} trials of other workers")

        objective = Objective(job, space, config.worker, trials, run.path, study, display.say)
        run_trials(study, objective, trials, call.timeout, (TrialFailed, TrialSkipped), after,
                   waiting)  # fmt: skip
        display.close()
        outcome = outcome_of(study, job, space, split, config, run.path)
    best = outcome.best.params if outcome.best else {}
    text = dump_config(with_params(config.run, best))
    write_atomic(run.path / BEST, lambda path: path.write_text(text, "utf-8"))
    save_json(run.path / SUMMARY, outcome.summary())
    write_page(run.path / PAGE, outcome)
    _show_outcome(display, outcome, run.path, call.as_json)
    return outcome


def _described(config: TuneConfig, job: Job) -> str:
    """Return what the trials of a study must share, as a JSON text; paths may differ."""
    values = yaml.safe_load(dump_config(config.run))
    for key in ("train", "val", "test", "sample_submission"):
        values["data"].pop(key)
    values["encoder"].pop("path")
    values["training"].pop("threads")
    prints = {key: fingerprint(path) for key, path in inputs_of(config.run).items()}
    metric = job.competition.metric
    shared = {"space": config.space, "holdout": config.holdout, "metric": metric, "inputs": prints}
    return json.dumps(values | shared, sort_keys=True)


def _show_outcome(display: Display, outcome: Outcome, folder: Path, as_json: bool) -> None:
    say = display.console.print
    for line in outcome.lines():
        say(line)
    say(f"page: {folder / PAGE}")
    train = outcome.train
    say(f"next: mlx-kaggle train --config {folder / BEST} --train {train} --output runs/tuned")
    if as_json:
        click.echo(json.dumps(outcome.summary()))


def require_optuna() -> None:
    """Raise `RunError` with the command that installs Optuna, if it is absent."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise RunError(MISSING)
