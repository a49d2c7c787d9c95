"""`mlx-kaggle predict` and `mlx-kaggle evaluate`: use a run on other tables."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN

FILE = click.Path(exists=True, dir_okay=False)
RUN = click.option("--run", "folder", required=True, help="Run folder written by train.",
                   type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip


@click.command()
@RUN
@click.option(
    "--test", type=FILE, help="Table to predict; a forecast run needs none: the next steps."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Submission CSV to write.")  # fmt: skip
@click.option("--sample-submission", type=FILE,
              help="Sample submission, for the format.  [default: that of the run]")  # fmt: skip
@click.option("--probabilities", is_flag=True, help="Write probabilities instead of classes.")
@click.option("--allow-leak", is_flag=True, help="Predict even if rows were trained on.")
@DRY_RUN
@AS_JSON
def predict(
    folder: Path,
    test: str | None,
    output: Path,
    sample_submission: str | None,
    probabilities: bool,
    allow_leak: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Predict a test table with every model of a run, and write a checked submission."""
    from mlx_kaggle.dry_run import plan_file, show_plan
    from mlx_kaggle.prediction.predict import plan_prediction, predict_run
    from mlx_trainer import lasting_output

    arguments = folder, test, output, sample_submission, probabilities, allow_leak
    if dry_run:
        rows, models, notes = plan_prediction(*arguments)
        for note in notes:
            click.echo(note, err=True)
        members = f"{len(models)} member{'s' if models[1:] else ''} of {folder}"
        would = [f"predict {rows} rows with {members}: {', '.join(models)}", plan_file(output)]
        show_plan(would, as_json, rows=rows, members=models, output=str(output), notes=notes)
        return
    with lasting_output():
        written = predict_run(*arguments)
        if as_json:
            click.echo(json.dumps(asdict(written)))
            return
        for line in written.lines():
            click.echo(line)


@click.command()
@RUN
@click.option("--data", type=FILE, required=True, help="Table with the target column.")
@click.option("--allow-leak", is_flag=True, help="Score even if rows were trained on.")
@AS_JSON
def evaluate(folder: Path, data: str, allow_leak: bool, as_json: bool) -> None:
    """Score a run on labelled rows that it was not trained on."""
    from mlx_kaggle.prediction.predict import evaluate_run

    scores, notes = evaluate_run(folder, data, allow_leak)
    for note in notes:
        click.echo(note, err=True)
    if as_json:
        click.echo(json.dumps(scores))
        return
    for name, value in scores.items():
        click.echo(f"{name:>12}  {value:.5g}")
