"""`mlx-encoders embed`."""

from pathlib import Path
from typing import Any

import click


@click.command("embed")
@click.argument("texts", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, help="Folder or hub id, of sentence-transformers or plain.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File .npy to write."
)
@click.option("--query", help="Print the lines most similar to this text instead.")
@click.option("--top", default=5, type=click.IntRange(min=1), help="Lines to print for --query.")
@click.option("--pooling", help="Pooling such as mean or cls.", show_default="of the folder")
@click.option("--prompt", help="Name of the prompt to put before each text.")
@click.option("--query-prompt", help="Name of that of the query.", show_default="--prompt")
@click.option("--overwrite", is_flag=True, help="Replace the file --output if it exists.")
@click.option("--batch-size", default=32, type=click.IntRange(min=1), help="Rows of a batch.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    texts: Path,
    model: str,
    output: Path | None,
    query: str | None,
    top: int,
    pooling: str | None,
    prompt: str | None,
    query_prompt: str | None,
    overwrite: bool,
    batch_size: int,
    as_json: bool,
) -> None:
    """Embed the lines of TEXTS: write vectors, or find the lines most similar to a query."""
    if (output is None) == (query is None):
        raise click.UsageError("give --output for vectors, or --query to search; one of them")
    if output is not None and output.suffix != ".npy":
        raise click.UsageError(f"--output must end in .npy, got {output}")
    if output is not None and not output.parent.is_dir():  # not only after the work
        raise click.UsageError(f"--output is in {output.parent}, which is not a folder")
    if output is not None and output.exists() and not overwrite:
        raise click.UsageError(f"{output} exists; name another file, or add --overwrite")
    import json

    from mlx_encoders import SentenceEncoder, search
    from mlx_encoders._atomic import write_atomic

    with texts.open(encoding="utf-8") as file:  # splitlines would also split at \f or U+2028
        lines = [line.removesuffix("\n") for line in file]
    if not lines:
        raise click.ClickException(f"{texts} has no lines")
    encoder = SentenceEncoder.from_pretrained(model, pooling=pooling)
    vectors = encoder.encode(lines, batch_size, progress=True, prompt_name=prompt)
    if output is not None:
        write_atomic(output, lambda path: _write(path, vectors))
        facts = {"output": str(output), "texts": len(lines), "size": vectors.shape[1]}
        words = f"{output}: {len(lines)} vectors of size {vectors.shape[1]}"
        click.echo(json.dumps(facts) if as_json else words)
        return
    wanted = encoder.encode(
        [str(query)], prompt_name=prompt if query_prompt is None else query_prompt
    )
    indices, scores = search(wanted, vectors, min(top, len(lines)))
    for index, score in zip(indices[0], scores[0], strict=True):
        row = {"line": int(index) + 1, "score": round(float(score), 4), "text": lines[index]}
        click.echo(json.dumps(row) if as_json else f"{score:.3f}  {index + 1}: {lines[index]}")


def _write(path: Path, vectors: Any) -> None:
    import numpy as np

    with path.open("wb") as file:  # np.save would add .npy to the temporary name
        np.save(file, vectors)
