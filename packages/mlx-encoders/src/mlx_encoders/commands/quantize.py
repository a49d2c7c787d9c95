"""`mlx-encoders quantize`."""

from pathlib import Path

import click


@click.command("quantize")
@click.option("--model", required=True, help="Folder or hub id.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option(
    "--mode",
    type=click.Choice(["affine", "mxfp4", "mxfp8", "nvfp4"]),
    default="affine",
    help="Form of the numbers.",
)
@click.option(
    "--bits", type=int, help="Bits of a weight: 2, 3, 4, 5, 6 or 8.  [default: the mode's]"
)
@click.option("--group-size", type=int, help="Weights that share a scale.  [default: the mode's]")
@click.option("--skip", multiple=True, help="Expression of paths to leave; may be repeated.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="EXPRESSION=BITS",
    help="Other bits for the layers of these paths; may be repeated.",
)
@click.option(
    "--check",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file, one text a line: compare the embeddings of both models.",
)
@click.option("--overwrite", is_flag=True, help="Replace the files of a folder that is not empty.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    output: Path,
    mode: str,
    bits: int | None,
    group_size: int | None,
    skip: tuple[str, ...],
    layers: tuple[str, ...],
    check: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a folder with quantized weights, beside the other small files of the model.

    The last layer of a task model is not quantized. mlx-embeddings reads the folder too, if it is
    that of an encoder; transformers does not.
    """
    import json

    from mlx_encoders.cli import check_output
    from mlx_encoders.files import find_folder
    from mlx_encoders.quantized_folders import quantize_folder

    check_output(output, overwrite)
    per_layer = dict(_parse_layer(each) for each in layers)
    folder = find_folder(model)
    if output.resolve() == folder.resolve():
        raise click.UsageError("--output is the folder of the model; name another one")
    report = quantize_folder(
        folder,
        output,
        mode=mode,
        bits=bits,
        group_size=group_size,
        skip=skip,
        per_layer=per_layer,
        texts=check.read_text(encoding="utf-8").splitlines() if check else None,
    )
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(f"bytes   {report['bytes_before']:,} -> {report['bytes_after']:,}")
    click.echo(f"layers  {report['quantized']} quantized, {len(report['left'])} left")
    for path in report["left"]:
        click.echo(f"        left: {path}")
    if report["dropped"]:
        click.echo(f"dropped {len(report['dropped'])} tensors: {', '.join(report['dropped'])}")
    if check:
        click.echo(
            f"cosine  mean {report['cosine_mean']:.5f}, lowest {report['cosine_min']:.5f} "
            f"of {report['texts']} texts"
        )


def _parse_layer(text: str) -> tuple[str, dict[str, int]]:
    pattern, separator, bits = text.rpartition("=")
    if not separator or not pattern or not bits.isdigit():
        raise click.UsageError(f"--layer takes EXPRESSION=BITS, such as 'query$=8'; got {text!r}")
    return pattern, {"bits": int(bits)}
