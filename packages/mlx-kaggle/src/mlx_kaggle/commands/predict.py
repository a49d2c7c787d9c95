"""`mlx-kaggle predict`."""

from pathlib import Path

import click


@click.command()
@click.option("--run", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              required=True, help="Run folder written by train.")  # fmt: skip
@click.option("--test", type=click.Path(exists=True, dir_okay=False), required=True,
              help="Table to predict.")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Submission CSV to write.")  # fmt: skip
@click.option("--sample-submission", type=click.Path(exists=True, dir_okay=False),
              help="Check against this file.  [default: the one the run knows]")  # fmt: skip
@click.option("--probabilities", is_flag=True, help="Write probabilities instead of classes.")
@click.option("--allow-leak", is_flag=True, help="Predict although the test is the training file.")
def predict(folder: Path, test: str, output: Path, sample_submission: str | None,
            probabilities: bool, allow_leak: bool) -> None:  # fmt: skip
    """Predict a test table with every model of a run, and write a checked submission."""
    from mlx_kaggle.runs import predict_run
    from mlx_trainer import lasting_output

    with lasting_output():
        lines = predict_run(folder, test, output, sample_submission, probabilities, allow_leak)
        for line in lines:
            click.echo(line)
