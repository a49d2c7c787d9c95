"""`mlx-kaggle config`: write, show and check files of settings."""

import json
from pathlib import Path

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN, setting_sources
from mlx_kaggle.settings.config import RunConfig, resolve_config
from mlx_trainer.command_line import SettingsCommand, settings_options

FILE = click.Path(exists=True, dir_okay=False)


@click.group()
def config() -> None:
    """Write a file of settings, show what a command would use, or check files."""


@config.command(cls=SettingsCommand)
@setting_sources
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              help="YAML file to write.  [default: standard output]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the file in --output.")
@DRY_RUN
@AS_JSON
@settings_options(RunConfig)
def init(
    flags: dict[str, object],
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write every setting with its meaning, range and value, for --config or --preset."""
    from mlx_kaggle.dry_run import plan_file, show_plan
    from mlx_kaggle.settings.config_file import commented
    from mlx_trainer import write_atomic

    settings = resolve_config(preset, config, flags, overrides)
    text = commented(settings, settings.preset)
    if output and output.exists() and not overwrite:
        raise click.UsageError(f"{output} exists; add --overwrite, or choose another --output")
    values = {"output": output and str(output), "bytes": len(text.encode())}
    if dry_run:
        would = plan_file(output) if output else "print the settings, and write nothing"
        show_plan([f"{would}: {values['bytes']:,} bytes"], as_json, **values)
        return
    if output:
        write_atomic(output, lambda path: path.write_text(text, "utf-8"))
    if as_json:
        click.echo(json.dumps({**values, "text": text}))
    elif output:
        click.echo(f"{output}: edit it, then: mlx-kaggle train --config {output} --train train.csv")
    else:
        click.echo(text, nl=False)


@config.command(cls=SettingsCommand)
@setting_sources
@click.option("--changed", is_flag=True, help="Show only what differs from the defaults.")
@AS_JSON
@settings_options(RunConfig)
def show(
    flags: dict[str, object],
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    changed: bool,
    as_json: bool,
) -> None:
    """Show the settings that `train` would use with the same arguments, and where each is from.

    From the default, a preset, a line of a file, a flag or --set.
    """
    import yaml

    from mlx_kaggle.presets import flattened
    from mlx_kaggle.settings.config_file import annotated
    from mlx_kaggle.settings.config_origins import setting_origins
    from mlx_trainer import dump_config

    text = dump_config(resolve_config(preset, config, flags, overrides))
    values = flattened(yaml.safe_load(text))
    origins = setting_origins(preset, config, flags, overrides, values)
    if changed:
        default = flattened(yaml.safe_load(dump_config(RunConfig())))
        values = {key: value for key, value in values.items() if value != default.get(key)}
    if as_json:
        click.echo(json.dumps({"values": values, "from": {key: origins[key] for key in values}}))
    elif changed:
        for key, value in values.items():
            click.echo(f"{key}: {json.dumps(value)}  # {origins[key]}")
    else:
        click.echo(annotated(text, origins), nl=False)


@config.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@AS_JSON
def validate(files: tuple[str, ...], as_json: bool) -> None:
    """Check files of settings: unknown keys, wrong values, presets that are not there.

    All errors are shown, each with its line; exits with 2 if there are any. What depends on several
    settings is checked once each of them is valid.
    """
    from mlx_kaggle.settings.config_origins import preset_problems

    found = {file: preset_problems(file) for file in files}
    count = sum(map(len, found.values()))
    if as_json:
        click.echo(json.dumps({"errors": count, "files": found}))
    for file, problems in found.items():
        for problem in problems:
            click.echo(problem, err=True)
        if not (problems or as_json):
            click.echo(f"{file}: all settings are valid")
    if count:
        wrong = sum(map(bool, found.values()))
        click.echo(f"Error: {count} error{'s' if count > 1 else ''} in {wrong} of {len(files)} "
                   f"file{'s' if len(files) > 1 else ''}", err=True)  # fmt: skip
        click.get_current_context().exit(2)
