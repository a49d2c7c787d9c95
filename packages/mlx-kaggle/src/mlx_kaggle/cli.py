"""The command group `mlx-kaggle`."""

import sys
from typing import NoReturn

import click

from mlx_kaggle.commands.benchmark import benchmark
from mlx_kaggle.commands.completion import completion
from mlx_kaggle.commands.config import config
from mlx_kaggle.commands.cv import baseline, cv
from mlx_kaggle.commands.demo import demo
from mlx_kaggle.commands.ensemble import ensemble
from mlx_kaggle.commands.export import export
from mlx_kaggle.commands.info import info
from mlx_kaggle.commands.kaggle import download, kaggle, submit
from mlx_kaggle.commands.predict import evaluate, predict
from mlx_kaggle.commands.presets import presets
from mlx_kaggle.commands.runs import runs
from mlx_kaggle.commands.text import text
from mlx_kaggle.commands.train import train
from mlx_kaggle.commands.tune import tune
from mlx_kaggle.commands.validate_data import validate_data
from mlx_kaggle.training.data_parallel import processes
from mlx_trainer.command_line import run


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Add --debug to any command to see the traceback of an error.",
)
@click.version_option(package_name="mlx-kaggle")
@click.pass_context
def cli(context: click.Context) -> None:
    """From a Kaggle CSV to a valid submission: text encoders fine-tuned on tables with MLX.

    \b
    Start here:
      mlx-kaggle demo
      mlx-kaggle train --train train.csv --target Survived --folds 5 --output runs/titanic
      mlx-kaggle predict --run runs/titanic --test test.csv --output submission.csv
    """
    process, count = processes()
    if count > 1 and context.invoked_subcommand != "train":
        if process == 0:
            raise click.UsageError(
                f"{context.invoked_subcommand} runs in one process: start it without mlx.launch"
            )
        context.exit(2)


# In the order of a competition.
COMMANDS = (demo, download, validate_data, text, baseline, train, cv, tune, predict, evaluate,
            ensemble, export, submit, runs, presets, config, kaggle, benchmark, info,
            completion)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)


HINTS = {"train": "--resume continues the run", "tune": "--resume continues the study"}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exit with 0 when done, 2 for wrong usage, 1 for a failure."""
    arguments = sys.argv[1:] if arguments is None else arguments
    run(cli, arguments, resume_hints=HINTS)


if __name__ == "__main__":
    main()
