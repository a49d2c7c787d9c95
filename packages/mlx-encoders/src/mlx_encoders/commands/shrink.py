"""Write a smaller model: fewer layers, heads, feed-forward units, tokens."""

from pathlib import Path

import click


@click.command("shrink")
@click.option("--model", required=True, help="Folder or hub id of an encoder.")
@click.option("--layers", help="Layers to keep, such as 0,2,4.")
@click.option("--heads", type=click.IntRange(min=1), help="Attention heads to keep in each layer.")
@click.option("--units", type=click.IntRange(min=1), help="Feed-forward units to keep.")
@click.option(
    "--vocabulary-from",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file, one text a line: keep its tokens and single characters.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--overwrite", is_flag=True, help="Replace files in the output folder.")
def command(
    model: str,
    layers: str | None,
    heads: int | None,
    units: int | None,
    vocabulary_from: Path | None,
    output: Path,
    overwrite: bool,
) -> None:
    """Write a smaller encoder, by the sizes of its weights; train it afterwards.

    Trimming the vocabulary costs nothing on texts like the given ones. Fewer heads make a folder
    that loads only here, everything else one that transformers loads.
    """
    if not (layers or heads or units or vocabulary_from):
        raise click.UsageError("nothing to remove: give --layers, --heads, --units or "
                               "--vocabulary-from")  # fmt: skip
    from mlx_encoders.cli import check_output

    check_output(output, overwrite)
    kept = _parse_layers(layers)

    from mlx_encoders import keep_layers, load, prune_heads, prune_units, save, trim_vocabulary
    from mlx_encoders.build import named_parameters

    smaller, tokenizer = load(model)
    before = sum(array.size for array in named_parameters(smaller).values())
    if kept:
        smaller = keep_layers(smaller, kept)
        click.echo(f"layers: {len(kept)}", err=True)
    if heads:
        smaller = prune_heads(smaller, heads)
        click.echo(f"heads: {heads} in each layer; transformers cannot load them", err=True)
    if units:
        smaller = prune_units(smaller, units)
        click.echo(f"feed-forward units: {units} in each layer", err=True)
    if vocabulary_from:
        texts = vocabulary_from.read_text(encoding="utf-8").splitlines()
        smaller, tokenizer, report = trim_vocabulary(smaller, tokenizer, texts)
        click.echo(f"tokens: {report.tokens_before} -> {report.tokens_after}", err=True)
    save(output, smaller, tokenizer)
    after = sum(array.size for array in named_parameters(smaller).values())
    click.echo(f"{output}: {before:,} -> {after:,} parameters ({after / before:.0%})")


def _parse_layers(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise click.UsageError(f"--layers must be numbers such as 0,2,4; got {text!r}") from None
