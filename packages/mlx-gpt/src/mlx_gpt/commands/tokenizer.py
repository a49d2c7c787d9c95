"""`mlx-gpt tokenizer`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gpt.commands.options import AT_LEAST_1, OUTPUT_FOLDER

if TYPE_CHECKING:
    from mlx_shards import Shard

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
# Compression is measured on at most this many characters: a shard of nanochat has 250 million.
_MEASURED_CHARS = 10_000_000


class Count(click.ParamType):
    """A whole number, or one with k, M or B: `500M`, `2B`."""

    name = "count"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number; fail with a usage error."""
        text = str(value).strip().lower().replace("_", "")
        unit = text[-1:] if text[-1:] in _UNITS else ""
        try:
            number = round(float(text.removesuffix(unit)) * _UNITS[unit])
        except (ValueError, OverflowError):
            number = 0
        if number < 1:
            self.fail(f"{value!r} is not a positive number such as 50000, 500M or 2B", param, ctx)
        return number


TRAIN_EPILOG = """\b
  mlx-gpt tokenizer train shards/ --output tokenizer/
  mlx-gpt tokenizer train 'books/*.txt' --output tokenizer/ --vocab-size 4096
"""


@click.group()
def tokenizer() -> None:
    """Train a tokenizer, measure its compression, show the tokens of a text."""


@tokenizer.command(epilog=TRAIN_EPILOG)
@click.argument("shards", nargs=-1, required=True)
@click.option(
    "--output", "-o", required=True, type=OUTPUT_FOLDER, help="Folder for tokenizer.json."
)
@click.option("--vocab-size", default=32768, show_default=True, type=AT_LEAST_1,
              help="All tokens: 256 bytes, merges and 9 special ones.")  # fmt: skip
@click.option("--max-chars", default="2B", show_default=True, type=Count(),
              help="Characters to learn from.")  # fmt: skip
@click.option("--max-document-chars", type=Count(),
              help="Characters used of each document; nanochat's: 10000.  "
              "[default: all]")  # fmt: skip
@click.option("--column", default="text", show_default=True, help="Column or key of the text.")
@click.option("--pattern", help="Regular expression that splits text; nanochat's by default.")
@click.option("--hold-out-last/--use-all", default=None,
              help="Hold out the last shard; default with several shards.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a tokenizer that is in the folder.")
def train(
    shards: tuple[str, ...],
    output: Path,
    vocab_size: int,
    max_chars: int,
    max_document_chars: int | None,
    column: str,
    pattern: str | None,
    hold_out_last: bool | None,
    overwrite: bool,
) -> None:
    """Train a tokenizer on local SHARDS: .parquet, .jsonl, .txt or .md; folders or patterns."""
    import time

    from mlx_gpt.data.documents import find_files, read_files
    from mlx_gpt.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer
    from mlx_gpt.tokenizer.compression import format_table, measure
    from mlx_shards import split_last
    from mlx_trainer import Progress

    if (output / "tokenizer.json").exists() and not overwrite:
        raise click.ClickException(
            f"{output} contains a tokenizer, which models trained with it need. Choose another "
            "folder, or --overwrite"
        )
    used = held = find_files(shards, column, _note)
    if hold_out_last or (hold_out_last is None and len(used) > 1):
        used, held = split_last(used)
    output.mkdir(parents=True, exist_ok=True)  # fail early
    read = 0

    def count(chars: int) -> None:
        nonlocal read
        read += chars

    began = time.perf_counter()
    with Progress(len(used), "reading shards, then merging") as progress:
        texts = read_files(used, column, progress.advance)
        trained = Tokenizer.train(
            texts,
            vocab_size,
            pattern or SPLIT_PATTERN,
            max_chars=max_chars,
            max_document_chars=max_document_chars,
            progress=count,
        )
    seconds = time.perf_counter() - began
    trained.save(output)
    limit = ", all that --max-chars allows" if read == max_chars else ""
    click.echo(
        f"{output}: {trained.vocab_size:,} tokens, {len(SPECIALS)} of them special; "
        f"{read:,} characters read{limit}, {seconds:.1f} s"
    )
    label = "training text" if held is used else f"held out: {held[-1].name}"
    sources = {label: _documents(held, column)}
    click.echo(format_table(measure({"this": trained.encode_batch}, sources)))


@tokenizer.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("files", nargs=-1, required=True)
@click.option("--compare", multiple=True, metavar="NAME[=PATH]",
              help="Another tokenizer: NAME=PATH of a tokenizer.json, or gpt2, cl100k_base, ... of "
                   "tiktoken; repeatable.")  # fmt: skip
@click.option("--column", default="text", show_default=True, help="Column or key of the text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(
    folder: Path, files: tuple[str, ...], compare: tuple[str, ...], column: str, as_json: bool
) -> None:
    """Compare bytes per token of the tokenizer in FOLDER on FILES with other tokenizers.

    Only the first 10 million characters of each file are measured.
    """
    import json

    from mlx_gpt.data.documents import find_files
    from mlx_gpt.tokenizer import Tokenizer, compression

    tokenizers: dict[str, compression.EncodeBatch] = {"this": Tokenizer.load(folder).encode_batch}
    for spec in compare:
        try:
            name, encode_batch = compression.load_reference(spec)
        except compression.EncodingUnavailableError as error:
            click.echo(f"skipped: {error}", err=True)
            continue
        if name in tokenizers:
            raise click.UsageError(f"--compare {spec}: there is a tokenizer {name!r} already")
        tokenizers[name] = encode_batch
    shards = find_files(files, column, _note)
    # Files of the same name in two folders are listed by their paths.
    named = len({shard.name for shard in shards}) == len(shards)
    sources = {
        shard.name if named else shard.location: _documents([shard], column) for shard in shards
    }
    rows = compression.measure(tokenizers, sources)
    click.echo(json.dumps(compression.report(rows)) if as_json else compression.format_table(rows))


@tokenizer.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("text")
def show(folder: Path, text: str) -> None:
    """Print the tokens of TEXT, one per line: id, bytes, piece."""
    from mlx_gpt.tokenizer import Tokenizer

    loaded = Tokenizer.load(folder)
    ids = loaded.encode(text)
    for number in ids:
        click.echo(f"{number:>7}  {len(loaded.decode_bytes([number])):>3}  {loaded.piece(number)}")
    size = len(text.encode("utf-8", "replace"))
    click.echo(f"{len(ids)} tokens, {size} bytes, {size / max(len(ids), 1):.2f} bytes/token")


@tokenizer.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--output", "-o", required=True, type=OUTPUT_FOLDER, help="Folder for tokenizer.json."
)
@click.option("--unsafe", is_flag=True, help="Read the pickle; you trust its source.")
def convert(source: Path, output: Path, unsafe: bool) -> None:
    """Convert nanochat's tokenizer.pkl (SOURCE, or a file in it) to a tokenizer.json."""
    from mlx_gpt.models.pickles import read_nanochat_tokenizer

    converted = read_nanochat_tokenizer(source, unsafe)
    converted.save(output)
    click.echo(f"{output}: {converted.vocab_size:,} tokens")


def _note(line: str) -> None:
    click.echo(line, err=True)


def _documents(shards: "list[Shard]", column: str) -> list[str]:
    """Return the first documents of shards, up to the limit of measured characters."""
    from mlx_gpt.data.documents import read_files
    from mlx_gpt.tokenizer.training import limit_text

    return list(limit_text(read_files(shards, column), _MEASURED_CHARS, _MEASURED_CHARS))
