"""`mlx-kaggle train`."""

from pathlib import Path
from typing import Any

import click

FILE = click.Path(exists=True, dir_okay=False)
PRESET_HELP = """Presets (--preset):

\b
  quick     a small encoder trained from scratch on your text: offline, made for CPUs.
            2 cores: titanic with 5 folds in minutes. The default.
  standard  fine-tunes a small pretrained encoder (MiniLM, 23 M parameters), by hub id or
            from a local folder: --encoder PATH
  thorough  ModernBERT-base (149 M parameters), 5 folds, 3 seeds, 4 views of each row
            averaged: for a GPU or a patient CPU

Optimizers (--optimizer):

\b
  adamw     AdamW for everything. The default.
  muon      Muon for the matrices inside the encoder, AdamW for embeddings, head, norms and
            biases. Rates, their decay by layer, head_rate and weight decay serve both;
            training.muon_rate multiplies the rate of the matrices alone.
            An update takes longer, the more so the larger the encoder and the smaller the
            batch.

Tables: .csv, .tsv, .parquet, .jsonl or .json, .xlsx (pip install 'mlx-kaggle[xlsx]'), and .gz
or .zip of one of them.

Settings: the preset, then --config FILE, then flags, then --set; later ones win.
A wrong key is an error. `--set training.epochs=3 --set text.style=sentence`
"""


@click.command(epilog=PRESET_HELP)
@click.option("--train", "train_file", type=FILE, help="Training table (see below).")
@click.option("--target", help="Column to predict.")
@click.option("--val", type=FILE, help="Validation table with answers; or:")
@click.option("--folds", type=click.IntRange(2, 50), help="Cross-validate; else hold out 20 %.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Run folder to write.")  # fmt: skip
@click.option("--preset", type=click.Choice(["quick", "standard", "thorough"]), help="See below.")
@click.option("--encoder", help="Folder or hub id of a BERT or ModernBERT; 'scratch' for none.")
@click.option("--optimizer", type=click.Choice(["adamw", "muon"]),
              help="See below.  [default: adamw]")  # fmt: skip
@click.option("--numeric-features", type=click.Choice(["on", "off"]),
              help="Numbers and categories also feed the head.  [default: on]")  # fmt: skip
@click.option("--test", type=FILE, help="Test table, for the leak check.  [default: found beside]")
@click.option("--sample-submission", type=FILE, help="Format to follow.  [default: found beside]")
@click.option("--id", "id_column", help="Id column; '' for none.  [default: inferred]")
@click.option("--task", type=click.Choice(["binary", "multiclass", "regression"]),
              help="[default: inferred]")  # fmt: skip
@click.option("--metric", help="accuracy, f1, roc_auc, log_loss, rmse, rmsle, mae, r2, ...")
@click.option("--kind", multiple=True, metavar="COLUMN=KIND",
              help="numeric, categorical, text, date, boolean or ignored; repeatable.")  # fmt: skip
@click.option("--separator", help="Field separator of CSV files.  [default: recognized]")
@click.option("--seed", type=int, help="Seed of folds, weights and order.  [default: 0]")
@click.option("--config", type=FILE, help="YAML file of settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option("--allow-leak", is_flag=True, help="Train although validation or test rows leak.")
@click.option("--resume", is_flag=True, help="Continue the run in --output where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def train(output: Path, resume: bool, overwrite: bool, dry_run: bool, as_json: bool,
          **options: Any) -> None:  # fmt: skip
    """Train on a table, cross-validate, and write a run folder with a report."""
    given = [name for name, value in options.items() if value not in (None, (), False)]
    if resume and given:
        flag = {"train_file": "train", "id_column": "id", "overrides": "set"}.get(
            given[0], given[0]
        )
        raise click.UsageError(f"--resume takes everything from --output; leave out --{flag}")
    if not resume:
        for flag, name in (("--train", "train_file"), ("--target", "target")):
            if not options[name] and not (options["config"] and name == "target"):
                raise click.UsageError(f"Missing option '{flag}'.")

    from mlx_kaggle.runs import create_run, resume_run, train_run

    if resume:
        run, config = resume_run(output)
        train_run(config, lambda: run, resume=True, as_json=as_json)
        return
    config = _config(options)
    if dry_run:
        train_run(config, None, as_json=as_json)
        return
    train_run(config, lambda: create_run(output, config, overwrite), as_json=as_json)


def _config(options: dict[str, Any]):
    from mlx_kaggle.config import resolve_config

    encoder = options["encoder"]
    features = options["numeric_features"]
    flags = {
        "data.train": options["train_file"],
        "data.target": options["target"],
        "data.val": options["val"],
        "data.test": options["test"],
        "data.sample_submission": options["sample_submission"],
        "data.id_column": options["id_column"],
        "data.task": options["task"],
        "data.metric": options["metric"],
        "data.separator": options["separator"],
        "data.kinds": _pairs(options["kind"]) or None,
        "data.allow_leak": options["allow_leak"] or None,
        "encoder.path": "" if encoder == "scratch" else encoder,
        "training.optimizer": options["optimizer"],
        "head.numeric_features": None if features is None else features == "on",
        "folds": options["folds"],
        "seed": options["seed"],
    }
    return resolve_config(options["preset"], options["config"], flags, options["overrides"])


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        column, equals, kind = value.rpartition("=")
        if not equals:
            raise click.UsageError(
                f"--kind {value}: expected COLUMN=KIND, as --kind Pclass=categorical"
            )
        pairs[column] = kind
    return pairs
