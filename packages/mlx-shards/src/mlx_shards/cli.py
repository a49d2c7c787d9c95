"""The command line: make, fetch, verify and stats.

Results go to standard output, progress to standard error: bars on a terminal, lines elsewhere.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn

import click

from mlx_shards._exits import run

OnError = Literal["raise", "skip"]

_NUMBERS = "Numbers of the shards of a template: 0-7, or 0,3,6542."
_MOST_NUMBERS = 1_000_000
_WHERE = (
    "SOURCE is a folder or pattern of local files, a manifest (.json, also by URL), a URL with {} "
    "or {:05d} and --numbers, or hf:owner/name[:pattern]."
)


class Numbers(click.ParamType):
    """`0-7` or `0,3,6542` as a list of integers."""

    name = "numbers"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """Return the numbers; fail with a usage error."""
        spans: list[range] = []
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if last < first:
                self.fail(f"{value!r} is not like 0-7 or 0,3,6542", param, ctx)
            spans.append(range(first, last + 1))
        if (count := sum(map(len, spans))) > _MOST_NUMBERS:
            self.fail(f"{value!r} are {count:,} numbers, over {_MOST_NUMBERS:,}", param, ctx)
        return [number for span in spans for number in span]


class Size(click.ParamType):
    """`500MB` or `20GB` as a number."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number; fail with a usage error."""
        from mlx_shards.shard import parse_bytes

        try:
            return parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@contextmanager
def _usage() -> Iterator[None]:
    """Call wrong arguments wrong usage."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(" ".join(str(error).split()), click.get_current_context()) from error


_column = click.option(
    "--column", default="text", show_default=True, help="Column or key of the text."
)
_on_error = click.option(
    "--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
    help="End at a row that cannot be used, or leave it out and count it.",
)  # fmt: skip


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Add --debug to any command to see the traceback of an error.",
)
@click.version_option(package_name="mlx-shards")
def cli() -> None:
    """Pretraining data in shards: make them, fetch them, check them, count them."""


@cli.command()
@click.argument("source", nargs=-1, required=True)
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path, file_okay=False))
@_column
@click.option("--shard-chars", type=Size(), default="250M", show_default=True,
              help="Characters a shard.")  # fmt: skip
@click.option("--group", default=1024, show_default=True, type=click.IntRange(1),
              help="Documents a row group.")  # fmt: skip
@click.option("--shuffle-seed", type=click.IntRange(0), help="Shuffle the documents; in memory.")
@_on_error
def make(
    source: tuple[str, ...],
    output: Path,
    column: str,
    shard_chars: int,
    group: int,
    shuffle_seed: int | None,
    on_error: OnError,
) -> None:
    """Write parquet shards, as nanochat reads them, from local parquet or JSON lines files."""
    from mlx_shards.display import Progress, skipped_rows
    from mlx_shards.order import Order
    from mlx_shards.sources import local_shards
    from mlx_shards.writing import check_output, read_documents, write_shards

    with _usage():
        shards = [shard for each in source for shard in local_shards(each)]
        check_output(output)
    with Progress("documents") as progress:
        documents = read_documents(shards, column, on_error, progress.skip)
        if shuffle_seed is not None:
            held = list(documents)
            order = Order(shuffle_seed, 0, 0, shuffle=True).shards(len(held))
            documents = (held[i] for i in order)
        made = write_shards(documents, output, shard_chars, group, progress.advance)
    rows = sum(shard.rows or 0 for shard in made)
    size = sum(shard.size or 0 for shard in made)
    also = skipped_rows(progress.skipped)
    click.echo(
        f"{output}: {len(made)} shards, {rows:,} documents{also}, {size:,} bytes, manifest.json"
    )


@cli.command(help=f"Download shards into a folder; those that are there are kept.\n\n{_WHERE}")
@click.argument("source")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--numbers", type=Numbers(), help=_NUMBERS)
@click.option("--max-bytes", type=Size(), default="1000TB",
              help="Refuse to hold more, such as 20GB.")  # fmt: skip
@click.option("--parallel", default=4, show_default=True, type=click.IntRange(1, 32))
def fetch(
    source: str, folder: Path, numbers: list[int] | None, max_bytes: int, parallel: int
) -> None:
    """Download the shards."""
    from mlx_shards.cache import Cache
    from mlx_shards.display import Progress
    from mlx_shards.download import Http
    from mlx_shards.fetching import check_remote, fetch_all
    from mlx_shards.sources import find_shards, hub_headers

    with _usage():
        shards = find_shards(source, numbers)
        check_remote(shards)
    headers = hub_headers() if source.startswith("hf:") else {}
    # All shards are to stay, so that no room will come by waiting.
    cache = Cache(folder, max_bytes, http=Http(headers=headers), room_timeout=0)
    with Progress("shards", len(shards)) as progress:
        paths = fetch_all(cache, shards, parallel, progress.advance)
    stats = cache.stats
    moved = sorted(str(p) for p in set(paths) - {folder / shard.name for shard in shards})
    taken = f"; {len(moved)} under other names, as theirs are taken: {moved[0]}" if moved else ""
    click.echo(
        f"{folder}: {len(shards)} shards, {stats.downloads} downloaded, "
        f"{stats.bytes_received:,} bytes received{taken}"
    )


@cli.command(help="Check shards: size and SHA-256 where known, and that they can be read.\n\n"
                  "SOURCE is a folder or a manifest beside its shards.")  # fmt: skip
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@_column
@click.option("--quick", is_flag=True, help="Read no documents, only what the file says of them.")
def verify(source: Path, column: str, quick: bool) -> None:
    """Check the shards; exit with 1 where one is bad."""
    from mlx_shards.display import Progress
    from mlx_shards.fetching import problem_with, shards_to_verify

    with _usage():
        shards = shards_to_verify(source)
    bad = []
    with Progress("shards", len(shards)) as progress:
        for shard in shards:
            if problem := problem_with(shard, column, quick):
                bad.append(f"{shard.name}: {problem}")
            progress.advance(1)
    for line in bad:
        click.echo(line)
    if bad:
        raise click.ClickException(f"{len(bad)} of {len(shards)} shards are bad")
    known = sum(shard.sha256 is not None for shard in shards)
    click.echo(f"{len(shards)} shards are good, {known} of them by SHA-256")


@cli.command(help="Count the documents of local shards, and their characters or tokens.")
@click.argument("source", type=click.Path(path_type=Path))
@_column
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_on_error
def stats(source: Path, column: str, as_json: bool, on_error: OnError) -> None:
    """Count what is in the shards."""
    import json

    from mlx_shards.display import Progress, skipped_rows
    from mlx_shards.fetching import count_shard
    from mlx_shards.sources import local_shards

    with _usage():
        shards = local_shards(source)
    lines = []
    with Progress("shards", len(shards)) as progress:
        for shard in shards:
            lines.append(count_shard(shard, column, on_error, progress.skip))
            progress.advance(1)
    if as_json:
        click.echo(json.dumps(lines))
        return
    click.echo(f"{'shard':32} {'blocks':>7} {'documents':>10} {'units':>14} {'bytes':>14}")
    for line in lines:
        click.echo(
            f"{line['name']:32} {line['blocks']:7,} {line['documents']:10,} "
            f"{line['units']:14,} {line['bytes']:14,}"
        )
    for unit in dict.fromkeys(line["unit"] for line in lines):
        chosen = [line for line in lines if line["unit"] == unit]
        documents = sum(line["documents"] for line in chosen)
        units = sum(line["units"] for line in chosen)
        also = skipped_rows(sum(line["skipped"] for line in chosen))
        click.echo(
            f"{len(chosen)} shards, {documents:,} documents{also}, {units:,} {unit}, "
            f"{units / max(documents, 1):,.0f} a document, "
            f"longest {max(line['longest'] for line in chosen):,}"
        )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; exit 0 when done, 2 for wrong usage, 1 for a failure."""
    given = sys.argv[1:] if arguments is None else arguments
    run(cli, given, _in_words, "Interrupted. A download goes on where it was when repeated.")


def _in_words(error: Exception) -> str:
    from mlx_shards.errors import ShardError

    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, ShardError | ValueError | OSError | ImportError):
        text = f"{type(error).__name__}: {error} (this looks like a defect; --debug shows where)"
    return text


if __name__ == "__main__":
    main()
