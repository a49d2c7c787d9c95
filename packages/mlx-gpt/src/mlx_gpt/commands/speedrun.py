"""`mlx-gpt speedrun`."""

from pathlib import Path
from typing import Any

import click

POSITIVE = click.IntRange(1)

EPILOG = """\b
Without TEXT it learns from the documentation inside of this Python's standard library, and
its chat model answers what a function does: nothing is downloaded.

\b
Stopped? Start it again with the same options: it goes on where it was.

\b
  mlx-gpt speedrun --output runs/first
  mlx-gpt speedrun books/ --chat dolly.jsonl --output runs/books --depth 6 --steps 1000
"""


@click.command(epilog=EPILOG)
@click.argument("text", nargs=-1, type=click.Path(exists=True))
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder to write.")  # fmt: skip
@click.option("--chat", "conversations", multiple=True, type=click.Path(exists=True),
              help="JSON lines of conversations; repeatable.")  # fmt: skip
@click.option("--depth", type=POSITIVE, help="Layers.  [default: 4]")
@click.option("--vocab-size", type=POSITIVE, help="Tokens.  [default: 4096]")
@click.option("--sequence-len", type=POSITIVE, help="Tokens a row.  [default: 256]")
@click.option("--batch-tokens", type=POSITIVE, help="Tokens an update.  [default: 8192]")
@click.option("--device-batch-size", type=POSITIVE, help="Rows at once.  [default: 32]")
@click.option("--steps", type=POSITIVE, help="Updates.  [default: once over the text]")
@click.option("--sft-epochs", type=POSITIVE, help="Times over the conversations.  [default: 3]")
@click.option("--core", type=click.Path(exists=True, file_okay=False),
              help="Folder of multiple-choice questions to measure with.")  # fmt: skip
@click.option("--question", "questions", multiple=True, help="To ask at the end; repeatable.")
@click.option("--seed", type=click.IntRange(0), help="[default: 0]")
def speedrun(text: tuple[str, ...], output: Path, **options: Any) -> None:
    """Go the whole path: text, tokenizer, pretraining, chat fine-tuning, evaluation, report."""
    from mlx_gpt.machine import prepare_machine
    from mlx_gpt.training.batch_sizes import fit_batch
    from mlx_gpt.training.speedrun import speedrun as run
    from mlx_gpt.training.speedrun_settings import SpeedrunConfig
    from mlx_trainer import lasting_output

    given = {name: value for name, value in options.items() if value not in (None, ())}
    lists = {name: list(value) for name, value in given.items() if isinstance(value, tuple)}
    usual = SpeedrunConfig()
    given["batch_tokens"], given["device_batch_size"] = fit_batch(
        options["batch_tokens"],
        options["device_batch_size"],
        options["sequence_len"] or usual.sequence_len,
        usual.batch_tokens,
        usual.device_batch_size,
    )
    prepare_machine()
    with lasting_output():
        run(SpeedrunConfig(list(text), **{**given, **lists}), output, click.echo)
