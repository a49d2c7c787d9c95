"""`mlx-kaggle info`."""

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(as_json: bool) -> None:
    """Show versions, device, BLAS, presets and metrics."""
    from mlx_kaggle.machine import machine_info

    found = machine_info()
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, text in value.items():
                click.echo(f"  {key:<14} {text}")
        else:
            click.echo(f"{name:<16} {value}")
