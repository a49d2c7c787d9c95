"""The command group, and the hint of an interrupted command on how to resume it."""

import sys
from typing import NoReturn

import click

from mlx_gpt.commands.bench import bench
from mlx_gpt.commands.bench_serve import bench_serve
from mlx_gpt.commands.chat import chat
from mlx_gpt.commands.convert import convert
from mlx_gpt.commands.data import data
from mlx_gpt.commands.estimate import estimate
from mlx_gpt.commands.evaluate import evaluate
from mlx_gpt.commands.export import export
from mlx_gpt.commands.finetune import finetune
from mlx_gpt.commands.fuse import fuse
from mlx_gpt.commands.generate import generate
from mlx_gpt.commands.info import info
from mlx_gpt.commands.report import report
from mlx_gpt.commands.rl import rl
from mlx_gpt.commands.serve import serve
from mlx_gpt.commands.sft import sft
from mlx_gpt.commands.speedrun import speedrun
from mlx_gpt.commands.tokenizer import tokenizer
from mlx_gpt.commands.train import train
from mlx_trainer.command_line import run

_RESUME_HINTS = dict.fromkeys(("train", "sft", "finetune", "rl"), "--resume continues the run") | {
    "speedrun": "the same command continues it"
}


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Add --debug to any command to see the traceback of an error.",
)
@click.version_option(package_name="mlx-gpt")
def cli() -> None:
    """Train your own ChatGPT: tokenizer, pretraining, fine-tuning, evaluation and chat with MLX.

    \b
    Start here, offline, without any data; or give your own text (.txt, .md, .jsonl, .parquet):
      mlx-gpt speedrun --output runs/first
      mlx-gpt chat --model runs/first/sft
    """


for command in (
    *(speedrun, tokenizer, data, train, sft, finetune, rl, evaluate, generate, chat, serve, report),
    *(convert, fuse, export, info, estimate, bench, bench_serve),
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exit 0 when done, 2 for wrong usage, 1 for a failure."""
    run(cli, sys.argv[1:] if arguments is None else arguments, _RESUME_HINTS, _explain)


def _explain(error: Exception) -> str | None:
    shards = sys.modules.get("mlx_shards.shard")  # loaded if the error is one of its own
    return str(error) if shards and isinstance(error, shards.ShardError) else None


if __name__ == "__main__":
    main()
