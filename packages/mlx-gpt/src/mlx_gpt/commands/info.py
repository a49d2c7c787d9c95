"""`mlx-gpt info`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import INPUT_FOLDER, device_option


@click.command()
@click.argument("model", type=INPUT_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, sizes in bytes.")
@device_option
def info(model: Path, as_json: bool) -> None:
    """Show the parameters, form and memory of a model, and the device that would run it.

    MODEL is a model or run folder. Its weights are not read.
    """
    import json
    from dataclasses import asdict

    from mlx_gpt.models.description import describe, format_description

    found = describe(model)
    click.echo(json.dumps(asdict(found)) if as_json else format_description(found))
