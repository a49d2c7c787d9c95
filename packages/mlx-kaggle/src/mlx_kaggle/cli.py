"""The command group, and the one place where errors become one line and an exit code."""

import sys
from typing import NoReturn

import click

from mlx_kaggle._exits import run
from mlx_kaggle.commands.demo import demo
from mlx_kaggle.commands.evaluate import evaluate
from mlx_kaggle.commands.info import info
from mlx_kaggle.commands.predict import predict
from mlx_kaggle.commands.train import train

NO_BACKEND = (
    "MLX has no backend on this machine; install one: pip install 'mlx[cpu]' (or 'mlx[cuda12]', "
    "'mlx[cuda13]' with an NVIDIA GPU)"
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Add --debug to any command to see the traceback of an error.",
)
@click.version_option(package_name="mlx-kaggle")
def cli() -> None:
    """From a Kaggle CSV to a valid submission: text encoders fine-tuned on tables with MLX.

    \b
    Start here:
      mlx-kaggle demo
      mlx-kaggle train --train train.csv --target Survived --folds 5 --output runs/titanic
      mlx-kaggle predict --run runs/titanic --test test.csv --output submission.csv
    """


for command in (demo, train, predict, evaluate, info):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exit 0 when done, 2 for wrong usage, 1 for a failure."""
    given = sys.argv[1:] if arguments is None else arguments
    way_on = "; --resume continues the run" if given[:1] == ["train"] else ""
    run(cli, given, _in_words, f"Interrupted{way_on}.")


def _in_words(error: Exception) -> str:
    if isinstance(error, ImportError) and "libmlx" in str(error):
        return NO_BACKEND
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    # A key alone is no sentence, so it comes from a lookup that should have been checked.
    if isinstance(error, KeyError) and " " in str(error.args[0] if error.args else ""):
        return str(error.args[0])
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return str(error)
    if str(error).startswith("[write]"):
        return f"a file could not be written: is the disk full? ({error})"
    return f"{type(error).__name__}: {error} (this looks like a defect; --debug shows where)"


if __name__ == "__main__":
    main()
