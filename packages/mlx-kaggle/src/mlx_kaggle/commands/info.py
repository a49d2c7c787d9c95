"""`mlx-kaggle info`."""

import json
import os
import platform
from typing import Any, get_args

import click

from mlx_kaggle.commands.options import AS_JSON
from mlx_kaggle.presets import NAMES, read_preset

PACKAGES = ("mlx", "mlx-kaggle", "mlx-tabtext", "mlx-encoders", "mlx-heads", "mlx-lora", "mlx-muon",
            "mlx-tabular", "mlx-trainer", "mlx-fastcpu", "numpy", "scikit-learn",
            "tokenizers")  # fmt: skip


@click.command()
@AS_JSON
def info(as_json: bool) -> None:
    """Show versions, device, BLAS, presets, metrics and losses."""
    values = machine_info()
    if as_json:
        click.echo(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, text in value.items():
                click.echo(f"  {key:<14} {text}")
        else:
            click.echo(f"{name:<16} {value}")


def machine_info() -> dict[str, Any]:
    """Return versions, device, BLAS, presets, metrics and the losses of each task."""
    from importlib.metadata import version  # a fifth of the time of --help

    import mlx.core as mx

    from mlx_heads import METRICS, objectives
    from mlx_kaggle.machine import prepare_machine
    from mlx_kaggle.tables.competition import Task

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": str(mx.default_device()),
        "fastcpu": prepare_machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "presets": {name: read_preset(name).description for name in NAMES},
        "metrics": ", ".join(METRICS),
        "losses": {task: ", ".join(objectives(task)) for task in get_args(Task)},
    }
