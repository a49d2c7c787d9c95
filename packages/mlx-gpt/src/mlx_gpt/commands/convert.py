"""`mlx-gpt convert`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import INPUT_FOLDER, OUTPUT_FOLDER, overwrite_option

DTYPES = click.Choice(["float32", "bfloat16", "float16"])
OUTPUT = click.option("--output", required=True, type=OUTPUT_FOLDER, help="The new folder.")


@click.group()
def convert() -> None:
    """Write a model folder in another form: quantized, dequantized, in another dtype.

    \b
      mlx-gpt convert quantize MODEL --bits 4 --output MODEL-4bit
      mlx-gpt convert dequantize MODEL-4bit --output MODEL-plain
      mlx-gpt convert dtype MODEL bfloat16 --output MODEL-bf16
    """


@convert.command()
@click.argument("model", type=INPUT_FOLDER)
@OUTPUT
@click.option("--bits", type=click.Choice(["4", "8"]), default="4", show_default=True)
@click.option("--group-size", type=click.Choice(["32", "64", "128"]), default="64",
              show_default=True, help="Numbers that share a scale.")  # fmt: skip
@click.option(
    "--dtype", type=DTYPES, help="Of scales and layers that stay.  [default: the model's]"
)
@overwrite_option
def quantize(
    model: Path, output: Path, bits: str, group_size: str, dtype: str | None, overwrite: bool
) -> None:
    """Quantize the linear layers and embeddings of MODEL; mlx-lm reads the folder too."""
    import mlx.core as mx

    from mlx_gpt.models import output as folders
    from mlx_gpt.models import rewrite

    found, source = rewrite.load_whole_model(model)
    if dtype:
        rewrite.cast(found, getattr(mx, dtype))
    count, plain = rewrite.quantize(found, int(bits), int(group_size))
    size = folders.write_model_folder(found, source, output, overwrite)
    click.echo(f"{output}: {size / 1e6:,.1f} MB, layers of {bits} bits: {count}")
    if plain:
        click.echo(f"not quantized, rows no multiple of {group_size}: {', '.join(plain)}")


@convert.command()
@click.argument("model", type=INPUT_FOLDER)
@OUTPUT
@click.option("--dtype", type=DTYPES, help="Of all weights.  [default: that of the scales]")
@overwrite_option
def dequantize(model: Path, output: Path, dtype: str | None, overwrite: bool) -> None:
    """Replace the quantized layers of MODEL by plain ones."""
    import mlx.core as mx

    from mlx_gpt.models import output as folders
    from mlx_gpt.models import rewrite

    found, source = rewrite.load_whole_model(model)
    count = rewrite.dequantize(found, getattr(mx, dtype) if dtype else None)
    if not count:
        raise ValueError(f"{model} has no quantized layers")
    size = folders.write_model_folder(found, source, output, overwrite)
    click.echo(f"{output}: {size / 1e6:,.1f} MB, dequantized layers: {count}")


@convert.command("dtype")
@click.argument("model", type=INPUT_FOLDER)
@click.argument("dtype", type=DTYPES)
@OUTPUT
@overwrite_option
def cast(model: Path, dtype: str, output: Path, overwrite: bool) -> None:
    """Cast the weights of MODEL to DTYPE; of quantized layers the scales."""
    import mlx.core as mx

    from mlx_gpt.models import output as folders
    from mlx_gpt.models import rewrite

    found, source = rewrite.load_whole_model(model)
    rewrite.cast(found, getattr(mx, dtype))
    size = folders.write_model_folder(found, source, output, overwrite)
    click.echo(f"{output}: {dtype}, {size / 1e6:,.1f} MB")


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
