"""`mlx-gpt sft`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import OUTPUT_FOLDER, SETTINGS_EPILOG, RunOptions, run_options
from mlx_gpt.training.settings import SftConfig
from mlx_trainer.command_line import SettingsCommand, settings_options

EPILOG = """\b
Data are JSON lines, each file with rows of one of these layouts:
  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}
  {"prompt": "...", "completion": "..."}
  {"instruction": "...", "input": "...", "output": "..."}
--data FILE:3 repeats a file three times per epoch. --data gsm8k:FILE turns GSM8K's calculator
marks, <<48/2=24>>, into calls of the chat's calculator.

\b
  mlx-gpt sft --model runs/d4 --data dolly.jsonl --data gsm8k:gsm8k.jsonl:4 \\
    --valid held.jsonl --output runs/d4-sft

All assistant turns are targets. Conversations are packed into rows; longer ones are truncated
(--set data.oversize=drop drops them). Batch, rates and momentum are those of the base run, with
nanochat's schedule of fine-tuning.

"""


@click.command(cls=SettingsCommand, epilog=EPILOG + SETTINGS_EPILOG)
@click.option("--output", type=OUTPUT_FOLDER, required=True, help="Run folder to write.")
@run_options
@settings_options(SftConfig)
def sft(flags: dict[str, object], output: Path, run: RunOptions) -> None:
    """Fine-tune a model on conversations, so that it answers."""
    run.check(flags, {"model": "--model", "data.train": "--data"})
    from mlx_gpt.training.runs import read_config
    from mlx_gpt.training.sft import run_finetuning

    chosen = read_config(SftConfig, flags, run.config, run.overrides, output, run.resume)
    run_finetuning(chosen, output, run.resume, run.overwrite)
