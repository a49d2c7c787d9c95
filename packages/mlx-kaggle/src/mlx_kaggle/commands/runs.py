"""`mlx-kaggle runs`: list, show, compare, delete and mirror run folders, and a page of them."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
RUNS = click.argument("runs", nargs=-1, required=True, type=FOLDER, metavar="RUN...")


@click.group()
def runs() -> None:
    """List, show, compare, delete and mirror run folders."""


@runs.command("list")
@click.argument("folder", type=FOLDER, default=Path("runs"))
@AS_JSON
def list_(folder: Path, as_json: bool) -> None:
    """List every run in FOLDER (default: runs) and below, the best first.

    Runs of different tables, targets or metrics are not ranked together. Unfinished and damaged
    runs are listed with the reason. Hidden folders are not searched.
    """
    from mlx_kaggle.report.runs_display import show_list
    from mlx_kaggle.runs.comparison import group_runs
    from mlx_kaggle.runs.reading import find_runs

    records, notes = find_runs(folder)
    groups = group_runs(records)
    others = [record for record in records if not record.finished]
    if as_json:
        ranked = [record for group in groups for record in group]
        found = [record.to_dict() for record in (*ranked, *others)]
        click.echo(json.dumps({"runs": found, "notes": notes}))
        return
    show_list(folder, groups, others, notes)


@runs.command()
@click.argument("run", type=FOLDER)
@AS_JSON
def show(run: Path, as_json: bool) -> None:
    """Show the answer of RUN, its members, settings, notes and files."""
    from mlx_kaggle.report.runs_display import describe_run, show_run
    from mlx_kaggle.runs.reading import existing_run

    record = existing_run(run)
    if as_json:
        click.echo(json.dumps(describe_run(record)))
        return
    show_run(record)


@runs.command()
@RUNS
@AS_JSON
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare finished runs: settings that differ, scores by fold, differences to the first run.

    The difference of two runs is paired by fold if both scored the same rows in the same folds.
    """
    from mlx_kaggle.report.runs_display import show_comparison
    from mlx_kaggle.runs.comparison import compare_runs
    from mlx_kaggle.runs.reading import finished_run

    if len({each.resolve() for each in runs}) < 2:
        raise click.UsageError("give two runs or more")
    records = [finished_run(each) for each in runs]
    compared = compare_runs(records)
    if as_json:
        click.echo(json.dumps(compared))
        return
    show_comparison(records, compared)


@runs.command()
@RUNS
@click.option("--yes", is_flag=True, help="Delete without asking.")
@DRY_RUN
@AS_JSON
def rm(runs: tuple[Path, ...], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete run folders.

    Refuses, before anything is deleted, folders that are no run, runs with files that no run
    wrote, runs that are being trained, and runs that an ensemble beside them needs.
    """
    from mlx_kaggle.report.runs_display import files_in_words
    from mlx_kaggle.runs.removal import check_removable, remove_runs

    folders = check_removable(runs)
    if dry_run:
        from mlx_kaggle.dry_run import show_plan

        would = [f"delete {folder}: {files_in_words(folder)}" for folder in folders]
        show_plan(would, as_json, runs=[str(each) for each in folders])
        return
    for folder in folders:
        click.echo(f"{folder}: {files_in_words(folder)}", err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nothing was deleted: give --yes, there is no terminal to ask")
        question = "Delete this folder?" if len(folders) == 1 else "Delete these folders?"
        if not click.confirm(question, err=True):
            raise click.ClickException("nothing was deleted")
    remove_runs(folders)
    if as_json:
        click.echo(json.dumps({"deleted": [str(each) for each in folders]}))
        return
    click.echo(f"deleted {_count(folders)}")


@runs.command()
@click.argument("folder", type=FOLDER, default=Path("runs"))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="HTML page to write.")  # fmt: skip
@DRY_RUN
@AS_JSON
def page(folder: Path, output: Path, dry_run: bool, as_json: bool) -> None:
    """Write one HTML page about all runs in FOLDER (default: runs) and below.

    It has a leaderboard for each table and metric, score against time, members and blends, settings
    that differ, and learning curves. It loads nothing from elsewhere, and links to the reports.
    """
    from mlx_kaggle.report.runs_page import write_page
    from mlx_kaggle.runs.reading import find_runs

    records, notes = find_runs(folder)
    if dry_run:
        from mlx_kaggle.dry_run import plan_file, show_plan

        would = [f"{plan_file(output)}: a page about {_count(records)}"]
        show_plan(would, as_json, page=str(output), runs=len(records), notes=notes)
        return
    write_page(output, folder, records, notes)
    if as_json:
        click.echo(json.dumps({"page": str(output), "runs": len(records), "notes": notes}))
        return
    for note in notes:
        click.echo(note, err=True)
    click.echo(f"{output}: {_count(records)}")


def _count(runs: Sequence[object]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


@runs.command()
@RUNS
@click.option("--to", "trackers", required=True, metavar="NAME,NAME",
              help="mlflow, wandb, trackio.")  # fmt: skip
@DRY_RUN
@AS_JSON
def mirror(runs: tuple[Path, ...], trackers: str, dry_run: bool, as_json: bool) -> None:
    """Send finished runs to MLflow, Weights & Biases or trackio.

    What was sent before is not sent again. See the README for where each tracker keeps it.
    """
    from mlx_kaggle.runs.reading import finished_run
    from mlx_kaggle.runs.tracking import (
        check_installed,
        check_tracker_names,
        mirror_run,
        tracker_names,
    )

    names = tracker_names(trackers)
    try:
        check_tracker_names(names)
    except ValueError as error:
        raise click.UsageError(str(error).replace("report_to", "--to:")) from None
    check_installed(names)
    records = [finished_run(each) for each in runs]
    if dry_run:
        from mlx_kaggle.dry_run import show_plan
        from mlx_kaggle.runs.tracking import plan_mirror

        would = [line for record in records for line in plan_mirror(record.path, names)]
        show_plan(would, as_json, runs=[str(each) for each in runs], trackers=names)
        return
    failed, mirrored = 0, []
    for record in records:
        mirror = mirror_run(record, names, lambda line: click.echo(line, err=True))
        failed += len(mirror.failed)
        for name in names:
            if name not in mirror.failed:
                mirrored.append({"run": record.name, "tracker": name, "to": mirror.sent_to(name)})
    if as_json:
        click.echo(json.dumps({"mirrored": mirrored}))
    else:
        for each in mirrored:
            click.echo(f"{each['run']}: in {each['tracker']} ({each['to']})")
    if failed:
        raise click.ClickException(f"{failed} of {failed + len(mirrored)} were not mirrored")
