"""`mlx-kaggle export`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from mlx_kaggle.commands.predict import FILE, RUN


@click.command()
@RUN
@click.option("--format", "kind", type=click.Choice(["hf", "onnx", "coreml"]), required=True,
              help="Hugging Face folder, ONNX, or Core ML.")  # fmt: skip
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder to write.")  # fmt: skip
@click.option("--member", metavar="NAME|all", help="One network, as fold-0-seed-0.  [default: all]")
@click.option("--data", type=FILE, help="Table to compare on.  [default: the training table]")
@click.option("--rows", type=click.IntRange(1), default=256, show_default=True,
              help="Most rows to compare on.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an export in the output folder.")
@click.option("--dry-run", is_flag=True, help="Say what would be exported, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def export(folder: Path, kind: str, output: Path, member: str | None, data: str | None, rows: int,
           overwrite: bool, dry_run: bool, as_json: bool) -> None:  # fmt: skip
    """Write the text member of a run for use without mlx-kaggle: networks, tokenizer, text step.

    The exported files predict rows before the folder is left, and the command fails if an answer
    differs from that of the member by more than 1e-4. Core ML is evaluated by coremltools.
    """
    if kind == "coreml" and data:
        raise click.UsageError("--data is to compare on, and Core ML runs on no rows here; omit it")
    from mlx_kaggle.export.plan import plan_export
    from mlx_kaggle.export.run_export import check_folder, export_run

    plan = plan_export(folder, member)
    values = {"networks": plan.networks, "networks_of_the_run": plan.total, "weight": plan.weight,
              "not_exported": plan.others, "format": kind, "output": str(output)}  # fmt: skip
    lines = plan.lines()
    if dry_run:
        check_folder(output, plan.run, overwrite)
        lines.append(f"would write {output}; nothing was written")
    else:
        done = export_run(plan, kind, output, data, rows, overwrite)
        values |= {"megabytes": round(done.bytes / 1e6, 3), "notes": done.notes,
                   "check": asdict(done.check)}  # fmt: skip
        lines += [*done.notes, done.check.line(), f"wrote {output}: {done.bytes / 1e6:.1f} MB"]
    click.echo(json.dumps(values) if as_json else "\n".join(lines))
