"""`mlx-encoders shrink`: fewer layers, heads, feed-forward units, tokens."""

from pathlib import Path
from typing import Any

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("shrink")
@click.option("--model", required=True, help="Folder or hub id.")
@click.option("--layers", help="Layers to keep, such as 0,2,4.")
@click.option("--heads", type=click.IntRange(min=1), help="Attention heads to keep in each layer.")
@click.option("--units", type=click.IntRange(min=1), help="Feed-forward units to keep.")
@click.option(
    "--vocabulary-from",
    type=_FILE,
    help="Text file, one text a line: keep its tokens and single characters.",
)
@click.option(
    "--min-count", type=click.IntRange(min=1), default=1, help="Occurrences of a token to keep."
)
@click.option(
    "--texts",
    type=_FILE,
    help="Text file, one text a line: measure the importance of heads and units on it, and compare "
    "tokens and embeddings before and after.",
)
@click.option(
    "--most-texts",
    type=click.IntRange(min=1),
    default=256,
    help="Number of --texts, at even distances, to run the models on.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--overwrite", is_flag=True, help="Replace files in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    layers: str | None,
    heads: int | None,
    units: int | None,
    vocabulary_from: Path | None,
    min_count: int,
    texts: Path | None,
    most_texts: int,
    output: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a smaller model; train it afterwards.

    Heads and units are chosen by what they change of the embeddings of --texts, else by the norms
    of their weights. Trimming the vocabulary costs nothing on texts like the given ones. Fewer
    heads make a folder that loads only here, everything else one that transformers loads.
    """
    import json

    from mlx_encoders.cli import check_output

    if layers is None and not (heads or units or vocabulary_from):
        raise click.UsageError("nothing to remove: give --layers, --heads, --units or "
                               "--vocabulary-from")  # fmt: skip
    check_output(output, overwrite)
    kept = None if layers is None else _parse_layers(layers)

    from mlx_encoders.files import find_folder
    from mlx_encoders.shrunk_folders import shrink_folder

    folder = find_folder(model)
    if output.resolve() == folder.resolve():
        raise click.UsageError("--output is the folder of the model; name another one")
    report = shrink_folder(
        folder,
        output,
        layers=kept,
        heads=heads,
        units=units,
        vocabulary_texts=_lines(vocabulary_from),
        min_count=min_count,
        texts=_lines(texts),
        most_texts=most_texts,
    )
    if heads:
        click.echo("transformers cannot load this folder: it has heads of one size only", err=True)
    if as_json:
        click.echo(json.dumps(report))
    else:
        _print(report)


def _parse_layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--layers must be numbers such as 0,2,4; got {text!r}") from None


def _lines(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise click.UsageError(f"{path} has no text")
    return lines


def _print(report: dict[str, Any]) -> None:
    for name in ("parameters", "bytes", "tokens"):
        if f"{name}_before" in report:
            before, after = report[f"{name}_before"], report[f"{name}_after"]
            click.echo(f"{name:<11}{before:,} -> {after:,} ({after / before:.0%})")
    for name in ("layers", "heads", "units"):
        if name in report:
            click.echo(f"{name:<11}{report[name]}")
    if "compared" in report:
        found = report["compared"]
        click.echo(
            f"{'tokens':<11}others in {found['changed']:,} of {found['texts']:,} texts; unknown "
            f"{found['unknown_before']:.3%} -> {found['unknown_after']:.3%}; length "
            f"{found['length_before']:.1f} -> {found['length_after']:.1f}"
        )
    if "cosine_mean" in report:
        click.echo(
            f"{'cosine':<11}mean {report['cosine_mean']:.5f}, lowest {report['cosine_min']:.5f} "
            f"of the embeddings of {report['texts_used']:,} of {report['texts']:,} texts"
        )
    if report["dropped"]:
        click.echo(f"{'dropped':<11}{len(report['dropped'])} tensors: "
                   f"{', '.join(report['dropped'])}")  # fmt: skip
