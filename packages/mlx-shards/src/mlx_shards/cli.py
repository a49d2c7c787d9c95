"""The command line: make, fetch, verify and stats.

Results go to standard output, progress to standard error: a bar on a terminal, lines elsewhere.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from mlx_shards.cache import Cache
from mlx_shards.datasets import (
    check_output,
    check_remote,
    count_shard,
    fetch_all,
    find_problem,
    read_documents,
    shards_to_verify,
    write_shards,
)
from mlx_shards.documents import Order
from mlx_shards.download import Http
from mlx_shards.reading import OnError
from mlx_shards.shard import ShardError, parse_bytes
from mlx_shards.sources import find_shards, hub_headers, local_shards, parse_numbers

_PRINT_EVERY = 10.0  # seconds between lines of progress
_PRINTED_ERRORS = 10  # skipped rows


class Parsed(click.ParamType):
    """A value converted by `parse`, whose `ValueError` becomes a usage error."""

    def __init__(self, name: str, parse: Callable[[str], Any]):
        self.name = name
        self._parse = parse

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value."""
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Progress:
    """Counts completed units of `total` (None: unknown); use it in a `with` block."""

    def __init__(self, unit: str, total: int | None = None):
        self._unit = unit
        self._total = total
        self._done = self.skipped = 0
        self._printed_at = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console  # slow to import
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True))
            self._task = self._bar.add_task(unit, total=total)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Add completed units."""
        self._done += count
        if self._bar:
            self._bar.update(self._task, advance=count)
        elif self._done == self._total or time.monotonic() - self._printed_at > _PRINT_EVERY:
            self._printed_at = time.monotonic()
            total = f" of {self._total:,}" if self._total is not None else ""
            _print_error(f"{self._done:,}{total} {self._unit}{_count_skipped(self.skipped)}")

    def skip(self, error: Exception) -> None:
        """Count a row as skipped, and print the first ones."""
        self.skipped += 1
        if self.skipped <= _PRINTED_ERRORS:
            _print_error(f"skipped {error}")
        if self._bar:
            self._bar.update(self._task, description=self._unit + _count_skipped(self.skipped))


def _count_skipped(count: int) -> str:
    return f", {count:,} row{'' if count == 1 else 's'} skipped" if count else ""


def _print_error(line: str) -> None:
    with suppress(OSError):  # standard error may be closed
        click.echo(line, err=True)


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise click.UsageError(" ".join(str(error).split()), click.get_current_context()) from error


_column = click.option(
    "--column", default="text", show_default=True, help="Column or key of the text."
)
_on_error = click.option(
    "--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
    help="Stop at an unusable row, or skip and count it.",
)  # fmt: skip


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Add --debug to any command to see the traceback of an error.",
)
@click.version_option(package_name="mlx-shards")
def cli() -> None:
    """Make, fetch, verify and count shards of pretraining data."""


@cli.command()
@click.argument("source", nargs=-1, required=True)
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path, file_okay=False))
@_column
@click.option("--shard-chars", type=Parsed("size", parse_bytes), default="250M", show_default=True,
              help="Characters per shard.")  # fmt: skip
@click.option("--group", default=1024, show_default=True, type=click.IntRange(1),
              help="Documents per row group.")  # fmt: skip
@click.option("--shuffle-seed", type=click.IntRange(0), help="Shuffle the documents in memory.")
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
    """Write parquet shards in nanochat's layout from local parquet or JSON lines files."""
    with _usage_errors():
        inputs = [shard for each in source for shard in local_shards(each)]
        check_output(output)
    with Progress("documents") as progress:
        documents = read_documents(inputs, column, on_error, progress.skip)
        if shuffle_seed is not None:
            held = list(documents)
            order = Order(shuffle_seed, 0, 0, shuffle=True).shards(len(held))
            documents = (held[i] for i in order)
        shards = write_shards(documents, output, shard_chars, group, progress.advance)
    rows = sum(shard.rows or 0 for shard in shards)
    size = sum(shard.size or 0 for shard in shards)
    click.echo(
        f"{output}: {len(shards)} shards, {rows:,} documents{_count_skipped(progress.skipped)}, "
        f"{size:,} bytes, manifest.json"
    )


@cli.command()
@click.argument("source")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--numbers", type=Parsed("numbers", parse_numbers),
              help="Shard numbers for the URL: 0-7, or 0,3,6542.")  # fmt: skip
@click.option("--max-bytes", type=Parsed("size", parse_bytes), default="1000TB",
              help="Fail instead of storing more, such as 20GB.")  # fmt: skip
@click.option("--parallel", default=4, show_default=True, type=click.IntRange(1, 32))
def fetch(
    source: str, folder: Path, numbers: list[int] | None, max_bytes: int, parallel: int
) -> None:
    """Download shards into a folder; existing ones are kept.

    SOURCE is a manifest (.json, also by URL), a URL with {} or {:05d} and --numbers, the URL of one
    shard, or hf:owner/name[:pattern].
    """
    with _usage_errors():
        shards = find_shards(source, numbers)
        check_remote(shards)
    headers = hub_headers() if source.startswith("hf:") else {}
    # All shards are kept, so waiting would not make room.
    cache = Cache(folder, max_bytes, http=Http(headers=headers), room_timeout=0)
    with Progress("shards", len(shards)) as progress:
        paths = fetch_all(cache, shards, parallel, progress.advance)
    stats = cache.stats
    moved = sorted(str(p) for p in set(paths) - {folder / shard.name for shard in shards})
    renamed = f"; {len(moved)} stored under other names, such as {moved[0]}" if moved else ""
    click.echo(
        f"{folder}: {len(shards)} shards, {stats.downloads} downloaded, "
        f"{stats.bytes_received:,} bytes received{renamed}"
    )


@cli.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@_column
@click.option("--quick", is_flag=True, help="Read only the metadata of files, no documents.")
def verify(source: Path, column: str, quick: bool) -> None:
    """Check that shards are readable, and their size and SHA-256 if known.

    SOURCE is a folder, or a manifest next to its shards.
    """
    with _usage_errors():
        shards = shards_to_verify(source)
    bad = []
    with Progress("shards", len(shards)) as progress:
        for shard in shards:
            if problem := find_problem(shard, column, quick):
                bad.append(f"{shard.name}: {problem}")
            progress.advance(1)
    if bad:
        click.echo("\n".join(bad))
        raise click.ClickException(f"{len(bad)} of {len(shards)} shards are bad")
    known = sum(shard.sha256 is not None for shard in shards)
    click.echo(f"{len(shards)} shards are good, {known} of them by SHA-256")


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@_column
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_on_error
def stats(source: Path, column: str, as_json: bool, on_error: OnError) -> None:
    """Count the documents of local shards, and their characters or tokens."""
    with _usage_errors():
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
        skipped = _count_skipped(sum(line["skipped"] for line in chosen))
        click.echo(
            f"{len(chosen)} shards, {documents:,} documents{skipped}, {units:,} {unit}, "
            f"{units / max(documents, 1):,.0f} per document, "
            f"longest {max(line['longest'] for line in chosen):,}"
        )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Exit with 0 for success, 2 for wrong usage, 1 for a failure, 128 + number for a signal."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, _interrupt)
        sys.exit(cli.main([each for each in given if each != "--debug"], standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ or error  # click raises Abort from KeyboardInterrupt
        number = signal.Signals(cause.args[0] if cause.args else signal.SIGINT)
        _print_error(f"Interrupted ({number.name}). Repeat the command to resume a download.")
        sys.exit(128 + number)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if "--debug" in given:
            raise
        _print_error(f"Error: {' '.join(_explain(error).split())}")
        sys.exit(1)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ShardError | ValueError | OSError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error} (this looks like a defect; --debug shows where)"


if __name__ == "__main__":
    main()
