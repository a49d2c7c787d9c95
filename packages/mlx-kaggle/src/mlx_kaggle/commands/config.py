"""`mlx-kaggle config`: write, show and check files of settings."""

from pathlib import Path

import click

from mlx_kaggle.commands.options import setting_sources
from mlx_kaggle.config import RunConfig, check_preset, resolve_config
from mlx_trainer.command_line import SettingsCommand, settings_options

FILE = click.Path(exists=True, dir_okay=False)


@click.group()
def config() -> None:
    """Write a file of settings, show what a command would use, or check files."""


@config.command()
@click.option("--preset", metavar="NAME|FILE", default="quick", show_default=True,
              help="Whose values to write.")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              help="YAML file to write.  [default: standard output]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the file in --output.")
def init(preset: str, output: Path | None, overwrite: bool) -> None:
    """Write every setting with its meaning, range and value, for --config or --preset."""
    from mlx_kaggle.config_file import commented
    from mlx_trainer import write_atomic

    text = commented(resolve_config(preset), preset)
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists() and not overwrite:
        raise click.UsageError(f"{output} exists; add --overwrite, or choose another --output")
    write_atomic(output, lambda path: path.write_text(text, "utf-8"))
    click.echo(f"{output}: edit it, then: mlx-kaggle train --config {output} --train train.csv")


@config.command(cls=SettingsCommand)
@setting_sources
@click.option("--changed", is_flag=True, help="Show only what differs from the defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@settings_options(RunConfig)
def show(
    flags: dict[str, object],
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    changed: bool,
    as_json: bool,
) -> None:
    """Show the settings that `train` would use with the same arguments."""
    import json

    import yaml

    from mlx_kaggle.presets import flattened
    from mlx_trainer import dump_config

    text = dump_config(resolve_config(preset, config, flags, overrides))
    values = flattened(yaml.safe_load(text))
    if changed:
        default = flattened(yaml.safe_load(dump_config(RunConfig())))
        values = {key: value for key, value in values.items() if value != default.get(key)}
    if as_json:
        click.echo(json.dumps(values))
    elif changed:
        for key, value in values.items():
            click.echo(f"{key}: {json.dumps(value)}")
    else:
        click.echo(text, nl=False)


@config.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
def validate(files: tuple[str, ...]) -> None:
    """Check files of settings: unknown keys, wrong values, presets that are not there."""
    for file in files:
        check_preset(file)
        click.echo(f"{file}: all settings are valid")
