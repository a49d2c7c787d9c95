"""`mlx-gpt speedrun`."""

from dataclasses import replace
from pathlib import Path

import click

from mlx_gpt.commands.options import OUTPUT_FOLDER, device_option
from mlx_gpt.training.speedrun_settings import SpeedrunConfig
from mlx_trainer.command_line import settings_options

EPILOG = """\b
Without TEXT it trains on the documentation in Python's standard library, and the chat model
explains what a function does. Nothing is downloaded.

\b
To continue an interrupted speedrun, start it again with the same options.

\b
  mlx-gpt speedrun --output runs/first
  mlx-gpt speedrun books/ --chat dolly.jsonl --output runs/books --depth 6 --steps 1000
"""


@click.command(epilog=EPILOG)
@click.argument("text", nargs=-1, type=click.Path(exists=True))
@click.option("--output", type=OUTPUT_FOLDER, required=True, help="Folder to write.")
@click.option("--chat", "conversations", multiple=True, type=click.Path(exists=True),
              help="JSON lines of conversations; repeatable.")  # fmt: skip
@settings_options(SpeedrunConfig)
@device_option
def speedrun(
    flags: dict[str, object], text: tuple[str, ...], conversations: tuple[str, ...], output: Path
) -> None:
    """Run all stages: text, tokenizer, pretraining, chat fine-tuning, evaluation, report."""
    from mlx_gpt.machine import prepare_machine
    from mlx_gpt.training.plan import fit_batch
    from mlx_gpt.training.speedrun import speedrun as run
    from mlx_trainer import lasting_output, load_config

    sources = {"text": text, "conversations": conversations}
    config = load_config(SpeedrunConfig, sources, flags=flags)
    usual = SpeedrunConfig()
    batch_tokens, rows = fit_batch(
        config.batch_tokens if "batch_tokens" in flags else None,
        config.device_batch_size if "device_batch_size" in flags else None,
        config.sequence_len,
        usual.batch_tokens,
        usual.device_batch_size,
    )
    prepare_machine()
    with lasting_output():
        config = replace(config, batch_tokens=batch_tokens, device_batch_size=rows)
        run(config, output, click.echo)
