"""`mlx-kaggle demo`."""

from pathlib import Path

import click


@click.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), show_default=True,
              default=Path("mlx-kaggle-demo"), help="Folder to write.")  # fmt: skip
def demo(output: Path) -> None:
    """Run the whole path on real data that ships with scikit-learn: offline, two minutes."""
    from mlx_kaggle.demo import run_demo

    run_demo(output)
