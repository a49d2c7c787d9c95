"""`mlx-kaggle ensemble`."""

from pathlib import Path

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN

METHODS = ("auto", "mean", "rank_mean", "greedy", "stack", "bma")
RUN = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=RUN, metavar="RUN...")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder of the ensemble to write.")  # fmt: skip
@click.option("--blend", "method", type=click.Choice(METHODS), default="auto", show_default=True,
              help="How to blend.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the ensemble in --output.")
@DRY_RUN
@AS_JSON
def ensemble(runs: tuple[Path, ...], output: Path, method: str, overwrite: bool, dry_run: bool,
             as_json: bool) -> None:  # fmt: skip
    """Blend the members of finished runs that scored the same rows.

    Runs with other encoders, serializations or seeds make different errors. `predict` and
    `evaluate` take the folder as they take a run; the runs must stay where they are.
    """
    if len(runs) < 2:
        raise click.UsageError("give two runs or more")
    from mlx_kaggle.prediction.ensemble import blend_runs, plan_blend
    from mlx_kaggle.report.display import Display

    if dry_run:
        from mlx_kaggle.dry_run import show_plan

        would, values = plan_blend(runs, output, method, overwrite)
        show_plan(would, as_json, **values)
        return
    with Display(as_json) as display:
        results = blend_runs(runs, output, method, overwrite)
        display.results(results, output)
