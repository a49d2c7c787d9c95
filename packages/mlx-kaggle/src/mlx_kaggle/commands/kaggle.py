"""`mlx-kaggle kaggle`, and the shortcuts `mlx-kaggle download` and `mlx-kaggle submit`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SAMPLE = click.Path(exists=True, dir_okay=False)
RUN = click.Path(exists=True, file_okay=False, path_type=Path)
COUNT = click.option("--count", type=click.IntRange(1, 100), default=20, show_default=True,
                     help="How many to show.")  # fmt: skip


def _check_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Refuse what is no name: it becomes part of addresses and paths."""
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise click.BadParameter(f"{name!r} is no name of a competition; it is the last part of "
                                 f"its address: titanic")  # fmt: skip
    return name


COMPETITION = click.argument("competition", callback=_check_name)


@click.group()
def kaggle() -> None:
    """Download from Kaggle and submit to it.

    Through Kaggle's own client (pip install 'mlx-kaggle[kaggle]'), which finds the credentials:
    KAGGLE_API_TOKEN, ~/.kaggle/access_token, KAGGLE_USERNAME with KAGGLE_KEY, or kaggle.json.
    """


@kaggle.command()
@COMPETITION
@click.option("--output", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the files.  [default: the name of the competition]")  # fmt: skip
@click.option("--file", "name", metavar="NAME", help="Only this file.")
@click.option("--overwrite", is_flag=True, help="Replace files that differ.")
@DRY_RUN
@AS_JSON
def download(competition: str, output: Path | None, name: str | None, overwrite: bool,
             dry_run: bool, as_json: bool) -> None:  # fmt: skip
    """Download and unpack the files of a competition."""
    from mlx_kaggle.kaggle_site import competition_files

    folder = output or Path(competition)
    if dry_run:
        from mlx_kaggle.dry_run import show_plan

        would, values = competition_files.plan_download(competition, folder, name, overwrite)
        show_plan(would, as_json, **values)
        return
    from mlx_kaggle.kaggle_site.api import Kaggle

    found = competition_files.download(Kaggle(), competition, folder, name, overwrite)
    command = competition_files.next_command(competition, found)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        values = {"folder": str(folder), "files": found.files, "written": found.written}
        click.echo(json.dumps({**values, "next": command}))
        return
    written = set(found.written)
    rows = [
        (name, f"{size:,}", "" if name in written else "was there, and is the same")
        for name, size in found.files.items()
    ]
    _table(("file", "bytes", ""), rows)
    click.echo(f"wrote {len(written)} of {len(rows)} files to {folder}")
    if command:
        click.echo(f"next: {command}")


@kaggle.command()
@COMPETITION
@AS_JSON
def files(competition: str, as_json: bool) -> None:
    """List the files of a competition."""
    from mlx_kaggle.kaggle_site.api import Kaggle

    found, complete = Kaggle().files(competition)
    if not complete:
        click.echo(f"note: these are the first {len(found)} files, there are more", err=True)
    _show(found, as_json)


@kaggle.command()
@COMPETITION
@click.argument("file", type=FILE)
@click.option("--message", "-m", help="Description.  [default: the run and its score]")
@click.option("--run", "folder", type=RUN,
              help="Run that wrote the file: shows its score, notes the submission.")  # fmt: skip
@click.option("--sample-submission", "sample", type=SAMPLE,
              help="Sample to check against.  [default: of the run, or beside FILE]")  # fmt: skip
@click.option("--unchecked", is_flag=True, help="Submit without a check against a sample.")
@click.option("--wait", type=click.FloatRange(0, 86400), default=60, show_default=True,
              metavar="SECONDS", help="How long to wait for the score.")  # fmt: skip
@DRY_RUN
@AS_JSON
def submit(
    competition: str,
    file: Path,
    message: str | None,
    folder: Path | None,
    sample: str | None,
    unchecked: bool,
    wait: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check a submission here, upload it, and wait for its public score."""
    if unchecked and sample:
        raise click.UsageError("--unchecked needs no --sample-submission; give one")
    from mlx_kaggle.kaggle_site import submit as submitting
    from mlx_kaggle.kaggle_site.api import Kaggle
    from mlx_kaggle.tables.submission_check import SubmissionError

    def say(line: str) -> None:
        click.echo(line, err=as_json)

    try:
        checked = submitting.check_before(competition, file, message, folder, sample, unchecked)
    except SubmissionError as error:
        _refuse(error, as_json, "nothing was uploaded")
    say(checked.line)
    if dry_run:
        from mlx_kaggle.dry_run import show_plan
        from mlx_kaggle.runs.tracking import SUBMISSIONS

        would = [f"submit {file} to {competition}: {checked.message}"]
        would += [f"note it in {SUBMISSIONS} of {folder}"] if folder else []
        values = {"competition": competition, "file": str(file), "message": checked.message}
        show_plan(would, as_json, bytes=file.stat().st_size, **values)
        return
    entry = submitting.submit(Kaggle(), competition, checked, wait, say)
    if as_json:
        click.echo(json.dumps(entry))
        return
    if entry["status"] == "complete":
        public = entry["public_score"]
        beside = f"; cross-validated: {checked.metric} {checked.score:.5g}" if checked.run else ""
        score = "none is published" if public is None else public
        click.echo(f"public score: {score}{beside}")


@kaggle.command()
@COMPETITION
@COUNT
@AS_JSON
def submissions(competition: str, count: int, as_json: bool) -> None:
    """List your submissions, the newest first."""
    from mlx_kaggle.kaggle_site.api import Kaggle

    _show(Kaggle().submissions(competition, count), as_json)


@kaggle.command()
@COMPETITION
@COUNT
@AS_JSON
def leaderboard(competition: str, count: int, as_json: bool) -> None:
    """Show the top of the public leaderboard."""
    from mlx_kaggle.kaggle_site.api import Kaggle

    _show(Kaggle().leaderboard(competition, count), as_json)


@kaggle.command()
@COMPETITION
@AS_JSON
def limits(competition: str, as_json: bool) -> None:
    """Show how many submissions are left."""
    from mlx_kaggle.kaggle_site.api import Kaggle
    from mlx_kaggle.kaggle_site.submit import describe_limits

    found = Kaggle().limits(competition)
    click.echo(json.dumps(found) if as_json else describe_limits(found))


@kaggle.command()
@click.argument("file", type=FILE)
@click.option("--sample-submission", "sample", type=SAMPLE, required=True,
              help="Sample to check against.")  # fmt: skip
@AS_JSON
def check(file: Path, sample: str, as_json: bool) -> None:
    """Check a submission against the sample, without Kaggle and its client."""
    from mlx_kaggle.kaggle_site.submit import check_file
    from mlx_kaggle.tables.submission_check import SubmissionError

    try:
        line = check_file(file, sample)
    except SubmissionError as error:
        _refuse(error, as_json)
    click.echo(json.dumps({"file": str(file), "faults": []}) if as_json else line)


def _refuse(error: Any, as_json: bool, outcome: str = "") -> NoReturn:
    """Print every fault, and exit with 1."""
    faults = error.faults
    if as_json:
        listed = [{"text": each.text, "column": each.column, "rows": each.rows} for each in faults]
        click.echo(json.dumps({"file": error.file, "faults": listed}))
    for each in faults:
        click.echo(f"{error.file}: {each}", err=True)
    count = f"{len(faults)} fault{'s' if faults[1:] else ''}"
    raise click.ClickException(f"{error.file}: {count}{f'; {outcome}' if outcome else ''}")


def _show(found: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
    elif not found:
        click.echo("none")
    else:
        used = [key for key in found[0] if any(each[key] is not None for each in found)]
        _table(used, [[_cell(key, each[key]) for key in used] for each in found])


def _cell(key: str, value: Any) -> str:
    return "" if value is None else f"{value:,}" if key == "bytes" else str(value)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, numbers to the right; a line is never broken, so that scripts can read it."""
    numbers = ("bytes", "rank", "score", "public_score", "private_score")
    lines = [[heading.replace("_", " ") for heading in headings], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if heading in numbers else cell.ljust(width)
            for heading, cell, width in zip(headings, line, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())
