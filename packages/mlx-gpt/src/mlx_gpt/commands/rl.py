"""`mlx-gpt rl`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import OUTPUT_FOLDER, SETTINGS_EPILOG, RunOptions, run_options
from mlx_gpt.training.settings import RlConfig
from mlx_trainer.command_line import SettingsCommand, settings_options

EPILOG = """\b
In each round the model answers every question several times; answers better than the mean of
their group become likelier. An answer is correct if its "#### number" equals the solution's.

\b
  mlx-gpt rl --model runs/d4-sft --data gsm8k/train.jsonl --valid gsm8k/test.jsonl \\
    --output runs/d4-rl

"""


@click.command(cls=SettingsCommand, epilog=EPILOG + SETTINGS_EPILOG)
@click.option("--output", type=OUTPUT_FOLDER, required=True, help="Run folder to write.")
@run_options
@settings_options(RlConfig)
def rl(flags: dict[str, object], output: Path, run: RunOptions) -> None:
    """Reinforce correct answers to GSM8K questions."""
    run.check(flags, {"model": "--model", "data.train": "--data"})
    from mlx_gpt.training.rl import run_reinforcement
    from mlx_gpt.training.runs import read_config

    chosen = read_config(RlConfig, flags, run.config, run.overrides, output, run.resume)
    run_reinforcement(chosen, output, run.resume, run.overwrite)
