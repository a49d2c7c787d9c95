"""`mlx-gpt report`."""

from collections.abc import Sequence
from pathlib import Path

import click

from mlx_gpt.commands.options import INPUT_FOLDER, OUTPUT_FOLDER

EPILOG = """\b
  mlx-gpt report runs/first                 (a speedrun: its pretrain/, sft/, rl/)
  mlx-gpt report runs/d4 runs/d6 --output comparison/

Also reads the results of `mlx-gpt evaluate` in the runs, and tokenizer_report.json next to
tokenizer.json: the output of `mlx-gpt tokenizer report --json`.
"""


@click.command(epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, type=INPUT_FOLDER, metavar="RUN...")
@click.option("--output", type=OUTPUT_FOLDER,
              help="Folder for report.md, report.json, curves.png.  [default: RUN]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
def report(runs: Sequence[Path], output: Path | None, as_json: bool) -> None:
    """Write the report card of runs, or of folders of runs, finished or not."""
    if output is None and len(runs) > 1:
        raise click.UsageError("several runs need --output, the folder for their report")
    import json

    from mlx_gpt.report import summary_table, write_report_card

    folder = output or Path(runs[0])
    found = write_report_card(runs, folder)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        click.echo("\n".join(summary_table(found)))
    click.echo(folder / "report.md", err=True)
