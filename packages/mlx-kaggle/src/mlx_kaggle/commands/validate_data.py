"""`mlx-kaggle validate-data`."""

import json
from pathlib import Path

import click

from mlx_kaggle.checks import CheckFlags
from mlx_kaggle.commands.options import CONFIG, SET
from mlx_trainer.command_line import SettingsCommand, settings_options


@click.command(cls=SettingsCommand)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Page (HTML) to write.")  # fmt: skip
@click.option("--rows", type=click.IntRange(100), default=10_000, show_default=True,
              help="Rows of a table that models read.")  # fmt: skip
@CONFIG
@SET
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@settings_options(CheckFlags)
def validate_data(
    flags: dict[str, object],
    output: Path | None,
    rows: int,
    config: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check tables before training: schema, duplicates, leaks, shift of the test table, target.

    Exits with 1 if something must be looked at.
    """
    from mlx_kaggle.checks.page import print_findings, write_page
    from mlx_kaggle.checks.validate import validate_data as validate
    from mlx_kaggle.commands.train import has_target
    from mlx_kaggle.config import resolve_config
    from mlx_kaggle.runs import inputs_of
    from mlx_trainer import check_output

    settings = resolve_config(None, config, flags, overrides)
    if not settings.data.train:
        raise click.UsageError("Missing option '--train'.")
    if not has_target(settings.data):
        raise click.UsageError("Missing option '--target'.")
    if output:
        if output.exists() and any(output.samefile(each) for each in inputs_of(settings).values()):
            raise click.UsageError(f"--output {output} is an input; choose another file")
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
