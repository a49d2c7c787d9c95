"""`mlx-gpt convert`."""

from pathlib import Path

import click


@click.group()
def convert() -> None:
    """Convert another program's model to a model folder."""


@convert.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--step", type=int, help="Number of the checkpoint.  [default: the last]")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="nanochat's tokenizer.pkl, or its folder."
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The new folder.")
@click.option("--unsafe", is_flag=True, help="Read pickles.")
def nanochat(
    checkpoint: Path, step: int | None, tokenizer: Path | None, output: Path, unsafe: bool
) -> None:
    """Convert a checkpoint of nanochat (model_<step>.pt, meta_<step>.json) to a model folder.

    CHECKPOINT is a folder such as ~/.cache/nanochat/base_checkpoints/d20. No code in the pickles is
    run, and torch is not needed.
    """
    from mlx_gpt.models.convert import convert_nanochat

    model = convert_nanochat(checkpoint, output, step, tokenizer, unsafe)
    click.echo(f"{type(model).__name__} of {model.config.n_layer} layers: {output}")
    if tokenizer is None:
        click.echo("without a tokenizer: give nanochat's tokenizer.pkl with --tokenizer")
