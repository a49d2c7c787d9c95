"""`mlx-kaggle train`."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN, refuse_beside_resume, setting_sources
from mlx_kaggle.settings.config import RunConfig, resolve_config
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.training.data_parallel import assist, check_settings, leading, processes
from mlx_trainer.command_line import SettingsCommand, settings_options

EPILOG = """Presets (--preset):

\b
  quick     a small encoder trained from scratch on your text: offline, made for CPUs.
            The default. On two cores and 5 folds: titanic 4 minutes, 10,000 rows of 14
            columns a quarter of an hour.
  standard  fine-tunes a small pretrained encoder (MiniLM, 23 M parameters), by hub id or
            from a local folder: --encoder PATH. The default for a column of sentences, if
            --encoder is given or was used before; 7,000 tweets take an hour on two cores
  thorough  ModernBERT-base (149 M parameters), 5 folds, 3 seeds, test-time augmentation
            of 4 texts per row: for a GPU, slow on a CPU
  titanic, house-prices, nlp-disaster, jigsaw, wine, store-sales
            the target, task and metric of a competition, on quick, or with --encoder on
            standard; mlx-kaggle presets show titanic
  FILE      a YAML file in the same form: mlx-kaggle config init --output FILE

Members (--members text,tabular,...), all of them in every preset:

\b
  text                       the encoder; without prose only if a trial on 1,500 rows helps
  tabular                    TabM, a network for numbers and categories
  trees                      scikit-learn's HistGradientBoosting with better defaults
  lightgbm xgboost catboost  if installed: pip install 'mlx-kaggle[boosted]'
  linear                     ridge or logistic regression, with words and characters
  forest                     randomized trees
  neighbours                 nearest training rows
  kernel                     support vector regression, up to 10,000 rows
  embeddings                 frozen embeddings of --encoder, into trees and a linear model

Losses (--loss) of the text network, the first of each task (--task) is its default:

\b
  binary      cross_entropy, focal, asymmetric
  multiclass  cross_entropy, focal
  multilabel  cross_entropy, focal, asymmetric: one probability for each label
  ordinal     corn, coral, cumulative_logit, cumulative_probit, cumulative_cloglog,
              cross_entropy (classes without order), mse (a regression on class numbers)
  regression  mse, huber, mae, log_cosh, msle; with an interval: quantile, gaussian_nll,
              beta_nll
  forecast    mse, huber, mae; with an interval: quantile, gaussian_nll

Optimizers (--optimizer) of the text network:

\b
  adamw     AdamW for everything. The default.
  muon      Muon for the matrices inside the encoder, AdamW for embeddings, head, norms and
            biases. Both use the same rates, decay by layer, head_rate and weight decay;
            training.muon_rate multiplies only the rate of the matrices.
            An update takes longer, especially with large encoders and small batches.

Adapters (--lora), with a pretrained encoder (--encoder, or the preset standard), which stays as
it is; the run folder has the adapters alone:

\b
  efficient      LoRA of rank 4 on queries and values
  balanced       rank 8 on all linear layers
  expressive     rank 16 on all linear layers
  qlora_memory   rank 8 on queries and values, encoder in 4 bits, layers computed twice
  qlora_quality  rank 16 on all linear layers, encoder in 4 bits in groups of 32

Tables: .csv, .tsv, .parquet, .jsonl or .json, .xlsx (pip install 'mlx-kaggle[xlsx]'), and .gz
or .zip of one of them.

Settings: the preset, then --config FILE, then flags, then --set; later ones win.
A wrong key is an error. `--set training.epochs=3 --set text.style=sentence`
"""


@click.command(cls=SettingsCommand, epilog=EPILOG)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Run folder to write.")  # fmt: skip
@setting_sources
@click.option("--resume", is_flag=True, help="Continue the run in --output.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes that train members side by side, with a share of the cores each.",
)
@click.option("--scheduler", metavar="ADDRESS",
              help="Scheduler of a dask cluster that trains them; see README.")  # fmt: skip
@DRY_RUN
@AS_JSON
@settings_options(RunConfig)
def train(
    flags: dict[str, object],
    output: Path,
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train on a table, cross-validate, and write a run folder with a report."""
    if resume:
        refuse_beside_resume(("output", "dry_run", "as_json", "workers", "scheduler"))
    elif "data.train" not in flags:
        raise click.UsageError("Missing option '--train'.")

    if workers and scheduler:
        raise click.UsageError("--workers are of this machine, --scheduler has others; give one")
    process, count = processes()
    if count > 1 and (workers or scheduler):
        raise click.UsageError("mlx.launch starts the processes; omit --workers and --scheduler")
    if resume:
        from mlx_kaggle.runs.folder import read_config

        settings = read_config(output)
    else:
        from mlx_kaggle.settings.default_preset import choose_preset

        preset, flags = choose_preset(preset, config, flags, overrides)
        settings = resolve_config(preset, config, flags, overrides)
        if not has_target(settings.data):
            raise click.UsageError("Missing option '--target'.")
    if count > 1:
        check_settings(settings)
    if dry_run and process == 0:
        _plan(settings, output, overwrite, resume, as_json)
    elif process > 0 and not dry_run:
        assist(settings, output)
    elif not dry_run:
        sides = _processes(workers, scheduler)
        with leading():
            _train(settings, output, overwrite, resume, as_json, sides)


def _plan(settings: RunConfig, output: Path, overwrite: bool, resume: bool, as_json: bool) -> None:
    from mlx_kaggle.dry_run import plan_resumed, plan_run, show_plan

    if resume:
        would, values = plan_resumed(settings, output, as_json)
    else:
        would, values = plan_run(settings, output, overwrite, as_json)
    show_plan(would, as_json, **values)


def _train(
    settings: RunConfig, output: Path, overwrite: bool, resume: bool, as_json: bool, sides: Any
) -> None:
    from mlx_kaggle.runs.folder import create_run, resume_run, train_run

    if resume:
        run, _ = resume_run(output)
        train_run(settings, lambda: run, resume=True, as_json=as_json, processes=sides)
    else:
        make_run = partial(create_run, output, settings, overwrite)
        train_run(settings, make_run, as_json=as_json, processes=sides)


def _processes(workers: int | None, scheduler: str | None) -> Any:
    """Return where members are trained side by side, `None` for here."""
    from mlx_kaggle.training import workers as sides

    if scheduler:
        return sides.cluster(scheduler)
    return sides.processes(workers) if workers and workers > 1 else None


def has_target(data: DataSettings) -> bool:
    """Whether the target is given, or there is something to find it in."""
    from mlx_kaggle.tables.files import find_companion_files

    given = data.target or data.targets or data.competition or data.task == "multilabel"
    return bool(given or find_companion_files(data)["sample_submission"])
