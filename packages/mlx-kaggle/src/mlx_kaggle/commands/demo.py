"""`mlx-kaggle demo`."""

from pathlib import Path

import click


@click.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), show_default=True,
              default=Path("mlx-kaggle-demo"), help="Folder to write.")  # fmt: skip
@click.pass_context
def demo(context: click.Context, output: Path) -> None:
    """Run the whole path on real data that ships with scikit-learn: offline, two minutes."""
    from mlx_kaggle.demo import run_demo

    command = context.find_root().command
    run_demo(output, lambda arguments: command.main(arguments, standalone_mode=False))
