"""`mlx-kaggle presets`: the files of settings that --preset takes."""

import json
from typing import Any

import click

from mlx_kaggle.commands.options import AS_JSON


@click.group()
def presets() -> None:
    """List the presets, or show the settings of one."""


@presets.command("list")
@AS_JSON
def list_presets(as_json: bool) -> None:
    """List the presets of the package, a line each."""
    from mlx_kaggle.presets import NAMES, read_preset

    found = {name: read_preset(name).description for name in NAMES}
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, description in found.items():
        click.echo(f"{name:<14} {description}")


@presets.command()
@click.argument("name", metavar="NAME|FILE")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """Print the file of a preset, and what it changes of the preset that it stands on."""
    from mlx_kaggle.presets import flattened, read_preset

    preset = read_preset(name)
    labels, template = _dictionary(preset.resolved())
    if as_json:
        about = {"name": preset.name, "description": preset.description, "base": preset.base}
        about |= {"labels": labels, "template": template}
        click.echo(json.dumps({**about, "values": preset.values, "resolved": preset.resolved()}))
        return
    click.echo(preset.text.rstrip())
    if template:
        click.echo("\n# columns in the text, by the data dictionary of mlx-tabtext:")
        for key, value in labels.items():
            click.echo(f"#   {key}: {value}")
        click.echo(f"# the text with --set text.style=template: {template!r}")
    base = preset.on("")
    if base is None:
        return
    standing = base.name if preset.base else f"{base.name}, with --encoder on standard"
    click.echo(f"\n# stands on {standing}; settings that it changes or adds there:")
    below = flattened(base.resolved())
    for key, value in flattened(preset.values).items():
        before = f", there {below[key]!r}" if key in below else ""
        click.echo(f"#   {key}: {value!r}{before}")


def _dictionary(settings: dict[str, Any]) -> tuple[dict[str, str], str | None]:
    """Return what mlx-tabtext knows of the competition: names of columns, and a template."""
    from mlx_tabtext import COMPETITIONS, load_data_dictionary

    competition = settings.get("data", {}).get("competition")
    if competition not in COMPETITIONS:
        return {}, None
    found = load_data_dictionary(competition)
    return dict(found.labels), found.template
