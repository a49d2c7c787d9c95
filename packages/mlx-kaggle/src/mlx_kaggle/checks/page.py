"""Show the findings of `validate-data`: a page, and lines in a terminal."""

from pathlib import Path

import click
from rich.console import Console

from mlx_kaggle.checks import count_severities
from mlx_kaggle.checks.schema import ColumnRow
from mlx_kaggle.checks.validate import Validation
from mlx_kaggle.report import describe_target, plots, shorten
from mlx_kaggle.report.render import write_html
from mlx_kaggle.tables.files import row_count

COLUMNS_SHOWN = 500
STYLES = {"must look": "bold red", "worth knowing": "yellow", "fine": "green"}


def print_findings(found: Validation, output: Path | None) -> None:
    """Print what must be looked at with its evidence, the rest shorter."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(_subtitle(found))
    for finding in found.findings:
        if finding.severity == "fine":
            continue
        console.print(f"\n{finding.severity}: ", style=STYLES[finding.severity], end="")
        console.print(finding.title)
        for line in (*finding.evidence, finding.advice):
            if line:
                console.print(f"  {line}")
    counts = count_severities(found.findings)
    fine = ", ".join(dict.fromkeys(f.check for f in found.findings if f.severity == "fine"))
    console.print(f"\nfine: {fine or 'nothing'}")
    console.print(", ".join(f"{count} {severity}" for severity, count in counts.items()))
    if output:
        click.echo(f"page: {output}")


def write_page(path: Path, found: Validation) -> None:
    """Write the page with all findings, and the columns of all tables beside each other."""
    inputs = found.inputs
    files = [Path(file).name for file in (inputs.data.train, *inputs.others)]
    headings = ["column", "kind", "because"]
    headings += [f"{file}: {what}" for file in files for what in ("missing", "distinct")]
    write_html(path, "checks.html.jinja", {
        "title": f"Data check: {files[0]}",
        "subtitle": _subtitle(found),
        "counts": count_severities(found.findings),
        "findings": found.findings,
        "figures": [(Path(file).name, plots.adversarial(each))
                    for file, each in found.adversarial.items() if each.told],
        "headings": headings,
        "columns": [_cells(row) for row in found.schema[:COLUMNS_SHOWN]],
        "more_columns": max(len(found.schema) - COLUMNS_SHOWN, 0),
    })  # fmt: skip


def _subtitle(found: Validation) -> str:
    inputs = found.inputs
    tables = {inputs.data.train: inputs.tables.train, **inputs.others}
    rows = ", ".join(f"{file}: {row_count(table):,} rows" for file, table in tables.items())
    target = describe_target(inputs.competition, inputs.encoded)
    return f"{rows}; target {inputs.competition.target}: {target}; seed {inputs.seed}"


def _cells(row: ColumnRow) -> list[str]:
    cells = [shorten(row.name), row.kind, shorten(row.reason, 120)]
    for counts in row.tables:
        cells += ["-", "-"] if counts is None else [f"{counts[0]:.1%}", f"{counts[1]:,}"]
    return cells
