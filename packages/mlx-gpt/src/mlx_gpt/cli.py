"""The command group, and the one place where errors become one line and an exit code."""

import sys
from typing import NoReturn

import click

from mlx_gpt._exits import run
from mlx_gpt.commands.chat import chat
from mlx_gpt.commands.convert import convert
from mlx_gpt.commands.evaluate import evaluate
from mlx_gpt.commands.report import report
from mlx_gpt.commands.rl import rl
from mlx_gpt.commands.sample import sample
from mlx_gpt.commands.sft import sft
from mlx_gpt.commands.speedrun import speedrun
from mlx_gpt.commands.tokenizer import tokenizer
from mlx_gpt.commands.train import train

NO_BACKEND = (
    "MLX has no backend on this machine; install one: pip install 'mlx[cpu]' (or 'mlx[cuda12]', "
    "'mlx[cuda13]' with an NVIDIA GPU)"
)

# How a command goes on after Ctrl-C.
_WAYS_ON = dict.fromkeys(("train", "sft", "rl"), "; --resume continues the run") | {
    "speedrun": "; started again with the same options it goes on"
}
# What MLX says of troubles that are not its own, and ours in words.
_TROUBLES = {
    "[write] Unable to write": "a file could not be written: is the disk full?",
    "[ring] ": "the connection to another process is lost: it ended, and says why",
}


class _Commands(click.Group):
    """The commands, whose errors in settings are wrong usage and end with 2, as in flags."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            from mlx_gpt.training.limits import SettingsError
            from mlx_trainer import ConfigError

            if isinstance(error, ConfigError | SettingsError):
                raise click.UsageError(str(error)) from error
            raise


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Add --debug to any command to see the traceback of an error.",
)
@click.version_option(package_name="mlx-gpt")
def cli() -> None:
    """Train your own ChatGPT: tokenizer, pretraining, fine-tuning, evaluation and chat with MLX.

    \b
    Start here, offline, without any data; or name text of yours (.txt, .md, .jsonl, .parquet):
      mlx-gpt speedrun --output runs/first
      mlx-gpt chat --model runs/first/sft
    """


for command in (speedrun, tokenizer, train, sft, rl, evaluate, sample, chat, report, convert):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exit 0 when done, 2 for wrong usage, 1 for a failure."""
    given = sys.argv[1:] if arguments is None else arguments
    way_on = _WAYS_ON.get(given[0], "") if given else ""
    run(cli, given, _in_words, f"Interrupted{way_on}.")


def _in_words(error: Exception) -> str:
    if isinstance(error, ImportError) and "libmlx" in str(error):
        return NO_BACKEND
    from mlx_shards import ShardError

    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, ValueError | OSError | FloatingPointError | ShardError):
        text = str(error)
    elif isinstance(error, KeyError) and error.args and " " in str(error.args[0]):
        text = str(error.args[0])  # our own are sentences; that of a dict is a bare key
    elif known := next((each for each in _TROUBLES if str(error).startswith(each)), None):
        text = f"{_TROUBLES[known]} ({error})"
    else:
        text = f"{type(error).__name__}: {error} (this looks like a defect; --debug shows where)"
    return text


if __name__ == "__main__":
    main()
