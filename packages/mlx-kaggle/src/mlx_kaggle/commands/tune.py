"""`mlx-kaggle tune`."""

from pathlib import Path

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN, refuse_beside_resume, setting_sources
from mlx_kaggle.settings.config import RunConfig, resolve_config
from mlx_trainer.command_line import Finite, SettingsCommand, settings_options

EPILOG = """The space (--space), settings by their key in config.yaml:

\b
  training.learning_rate: {low: 1e-4, high: 3e-3, log: true}
  encoder.num_hidden_layers: {low: 1, high: 4}
  text.style: [list, sentence]
  options.trees.max_depth: {low: 2, high: 8}

Without it, every option of the members and, of the text network, layers, width, heads, pooling,
rates, epochs, dropout, optimizer and serialization, as far as flags and --set leave them open.

Several workers share a study: the same command with the same --storage and --study, and another
--output. SQLite is for one machine, PostgreSQL for many: postgresql+psycopg://user@host/database.
"""


@click.command(cls=SettingsCommand, epilog=EPILOG)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder of the study to write; each worker has its own.")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), help="Finished trials of the study in total, of "
              "all workers: complete, pruned or failed.  [default: 30]")  # fmt: skip
@click.option("--timeout", type=Finite(0, min_open=True), metavar="SECONDS",
              help="Begin no trial after so many seconds.")  # fmt: skip
@click.option("--holdout", type=Finite(0, 1, max_open=True), default=0.2, show_default=True,
              help="Share of the rows that no trial sees, for the end.")  # fmt: skip
@click.option("--space", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="YAML file of the settings to tune, see below.")  # fmt: skip
@click.option("--storage", metavar="URL", help="Storage of the study, for several workers.  "
              "[default: study.db in --output]")  # fmt: skip
@click.option("--study", default="tune", show_default=True, help="Name of the study in --storage.")
@setting_sources
@click.option("--resume", is_flag=True, help="Continue the study in --output.")
@click.option("--overwrite", is_flag=True, help="Replace the study in --output.")
@DRY_RUN
@AS_JSON
@settings_options(RunConfig)
def tune(
    flags: dict[str, object],
    output: Path,
    trials: int | None,
    timeout: float | None,
    holdout: float,
    space: Path | None,
    storage: str | None,
    study: str,
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Tune the members with Optuna on the folds and the metric of a run.

    The first trial is the untuned configuration. At the end it and the best one are scored on rows
    that no trial has seen. `train --config OUTPUT/best.yaml` trains the best one.
    """
    if resume:
        refuse_beside_resume(("output", "trials", "timeout", "storage", "dry_run", "as_json"))
    elif "data.train" not in flags:
        raise click.UsageError("Missing option '--train'.")

    from mlx_kaggle.tuning.config import TuneConfig
    from mlx_kaggle.tuning.tune import Call, require_optuna, resume_tuning, start_tuning

    require_optuna()
    call = Call(output, storage, trials, timeout, overwrite, dry_run, as_json)
    if resume:
        resume_tuning(call)
        return
    from mlx_kaggle.commands.train import has_target
    from mlx_kaggle.settings.default_preset import choose_preset

    preset, flags = choose_preset(preset, config, flags, overrides)
    settings = resolve_config(preset, config, flags, overrides)
    if not has_target(settings.data):
        raise click.UsageError("Missing option '--target'.")
    start_tuning(TuneConfig(settings, trials or 30, holdout, study), space, call)
