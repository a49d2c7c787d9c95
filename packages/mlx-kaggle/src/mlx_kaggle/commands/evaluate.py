"""`mlx-kaggle evaluate`."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--run", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              required=True, help="Run folder written by train.")  # fmt: skip
@click.option("--data", type=click.Path(exists=True, dir_okay=False), required=True,
              help="Table with the target column.")  # fmt: skip
@click.option("--allow-leak", is_flag=True, help="Score although rows were trained on.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def evaluate(folder: Path, data: str, allow_leak: bool, as_json: bool) -> None:
    """Score a run on labelled rows that it has not seen."""
    from mlx_kaggle.runs import evaluate_run

    scores, notes = evaluate_run(folder, data, allow_leak)
    for note in notes:
        click.echo(note, err=True)
    if as_json:
        click.echo(json.dumps(scores))
        return
    for name, value in scores.items():
        click.echo(f"{name:>12}  {value:.5g}")
