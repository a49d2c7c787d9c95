"""`mlx-kaggle validate-data`."""

import json
from pathlib import Path

import click

from mlx_kaggle.checks import CheckFlags
from mlx_kaggle.commands.options import AS_JSON, CONFIG, DRY_RUN, SET
from mlx_kaggle.settings.sections import DataSettings
from mlx_trainer.command_line import SettingsCommand, settings_options


@click.command(cls=SettingsCommand)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Page (HTML) to write.")  # fmt: skip
@click.option("--rows", type=click.IntRange(100), default=10_000, show_default=True,
              help="Rows of a table that models read.")  # fmt: skip
@CONFIG
@SET
@DRY_RUN
@AS_JSON
@settings_options(CheckFlags)
def validate_data(
    flags: dict[str, object],
    output: Path | None,
    rows: int,
    config: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check tables before training: schema, duplicates, leaks, shift of the test table, target.

    Exits with 1 if something must be looked at.
    """
    from mlx_kaggle.checks.page import print_findings, write_page
    from mlx_kaggle.checks.validate import validate_data as validate
    from mlx_kaggle.commands.train import has_target
    from mlx_kaggle.runs.folder import tables_of
    from mlx_kaggle.settings.config import resolve_config
    from mlx_trainer import check_output

    settings = resolve_config(None, config, flags, overrides)
    if not settings.data.train:
        raise click.UsageError("Missing option '--train'.")
    if not has_target(settings.data):
        raise click.UsageError("Missing option '--target'.")
    inputs = tables_of(settings).values()
    if output and output.exists() and any(output.samefile(each) for each in inputs):
        raise click.UsageError(f"--output {output} is an input; choose another file")
    if dry_run:
        _plan(settings.data, output, rows, as_json)
        return
    if output:
        check_output(output)
    found = validate(settings.data, settings.seed, rows)
    if output:
        write_page(output, found)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        print_findings(found, output)
    if found.must_look:
        click.get_current_context().exit(1)


def _plan(data: DataSettings, output: Path | None, rows: int, as_json: bool) -> None:
    from mlx_kaggle.dry_run import plan_file, show_plan
    from mlx_kaggle.tables.files import find_companion_files, read_tables, row_count

    tables, found = read_tables(data), find_companion_files(data)
    files = {data.train: tables.train, str(data.val): tables.val, str(found["test"]): tables.test}
    counts = {file: row_count(table) for file, table in files.items() if table is not None}
    listed = ", ".join(f"{file} ({count:,} rows)" for file, count in counts.items())
    would = [f"check {listed}, with models of at most {rows:,} rows of each"]
    would.append(plan_file(output) if output else "write nothing")
    show_plan(would, as_json, rows=counts, output=output and str(output))
