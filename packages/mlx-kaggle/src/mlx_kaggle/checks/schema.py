"""Checks of columns: kinds, missing and distinct cells in each table, copies, unreadable cells."""

from dataclasses import dataclass

from mlx_kaggle.checks import Finding, first_rows
from mlx_kaggle.checks.inputs import Inputs
from mlx_kaggle.tables.competition import list_names
from mlx_kaggle.tables.files import row_count
from mlx_tabtext import Table, find_invalid_cells, is_missing

MANY_UNREADABLE = 0.05
EMPTY = 0.95
NAMES_SHOWN = 8


@dataclass(frozen=True)
class ColumnRow:
    """A column beside itself in the other tables: missing share and distinct cells, or `None`."""

    name: str
    kind: str
    reason: str
    tables: tuple[tuple[float, int] | None, ...]


def describe_schema(inputs: Inputs) -> list[ColumnRow]:
    """Return every column of any table, with its share of missing cells in train, val, test."""
    tables = [inputs.tables.train, *inputs.others.values()]
    known = {column.name: column for column in inputs.schema.columns}
    names = dict.fromkeys(name for table in tables for name in table)
    rows = []
    for name in names:
        kind, reason = (known[name].kind, known[name].reason) if name in known else ("unknown", "")
        rows.append(ColumnRow(name, kind, reason, tuple(_counts(table, name) for table in tables)))
    return rows


def _counts(table: Table, name: str) -> tuple[float, int] | None:
    if name not in table:
        return None
    filled = [str(cell) for cell in table[name] if not is_missing(cell)]
    return 1 - len(filled) / max(len(table[name]), 1), len(set(filled))


def check_schema(inputs: Inputs) -> list[Finding]:
    """Return the findings on columns."""
    findings = [*_only_in_one(inputs), *_unreadable(inputs), *_useless(inputs)]
    checks = ("columns of both tables", "unreadable cells", "constant and copied columns")
    bad = {finding.check for finding in findings}
    good = [Finding("fine", name, f"{name}: nothing found") for name in checks if name not in bad]
    return findings + good


def _only_in_one(inputs: Inputs) -> list[Finding]:
    train, findings, check = inputs.tables.train, [], "columns of both tables"
    targets = inputs.competition.targets
    for file, table in inputs.others.items():
        absent = [name for name in train if name not in table and name not in targets]
        extra = [name for name in table if name not in train]
        used = [name for name in absent if name in inputs.competition.feature_names]
        if absent:
            severity = "must look" if used else "worth knowing"
            findings.append(Finding(
                severity, check, f"{_count(absent)} only in {inputs.data.train}, not in {file}",
                (list_names(absent, NAMES_SHOWN),),
                "train stops: a model would need these columns" if used
                else "not known when predicting, so train drops them", tuple(absent),
            ))  # fmt: skip
        if extra:
            findings.append(Finding(
                "worth knowing", check, f"{_count(extra)} only in {file}",
                (list_names(extra, NAMES_SHOWN),), "train ignores them; a target of another name?",
                tuple(extra),
            ))  # fmt: skip
    return findings


def _count(names: list[str]) -> str:
    return "1 column is" if len(names) == 1 else f"{len(names)} columns are"


def _unreadable(inputs: Inputs) -> list[Finding]:
    findings = []
    names = set(inputs.competition.feature_names)
    for file, table in {inputs.data.train: inputs.tables.train, **inputs.others}.items():
        present = {name: cells for name, cells in table.items() if name in names}
        if not names <= set(present):
            continue
        for name, rows in find_invalid_cells(present, inputs.schema).items():
            column, share = inputs.schema[name], len(rows) / row_count(table)
            written = column.number_format or column.date_format
            cells = list(dict.fromkeys(str(present[name][row])[:40] for row in rows))
            findings.append(Finding(
                "must look" if share > MANY_UNREADABLE else "worth knowing", "unreadable cells",
                f"{len(rows):,} cells of {name!r} in {file} are not read as {column.kind}",
                (f"{first_rows([row + 2 for row in rows])}: "
                 f"{', '.join(map(repr, cells[:3]))}; {share:.1%} of the rows"
                 + (f", the others are written as {written}" if written else ""),),
                f"they count as missing; correct them, or give --kind {name}=categorical",
                (name,),
            ))  # fmt: skip
    return findings


def _useless(inputs: Inputs) -> list[Finding]:
    """Return findings on columns that `train` ignores, or that are nearly empty."""
    findings, check = [], "constant and copied columns"
    constant, copies = [], []
    for column in inputs.schema.columns:
        if column.kind != "ignored" or column.reason == "given":
            continue
        if column.reason.startswith("copies the target"):
            findings.append(Finding(
                "must look", check, f"{column.name!r} {column.reason}",
                ("every row agrees, cell by cell or as another spelling of the same values",),
                "train drops it; leave it out of every other model too", (column.name,),
            ))  # fmt: skip
        elif column.reason.startswith("copies"):
            copies.append(f"{column.name}: {column.reason}")
        elif not column.reason.startswith(("not in", "a column of the sample")):
            constant.append(f"{column.name}: {column.reason}")
    for title, lines in (("constant or empty", constant), ("copies of others", copies)):
        if lines:
            findings.append(Finding(
                "worth knowing", check, f"{_count(lines)} {title}",
                tuple(lines[:NAMES_SHOWN]), "train drops them: nothing to do",
            ))  # fmt: skip
    train = inputs.tables.train
    sparse = {c.name: counts[0] for c in inputs.schema.features
              if (counts := _counts(train, c.name)) and counts[0] > EMPTY}  # fmt: skip
    if sparse:
        listed = [f"{name} {share:.1%} missing" for name, share in sparse.items()]
        title, evidence = f"{_count(listed)} nearly empty", (list_names(listed, NAMES_SHOWN),)
        findings.append(Finding("worth knowing", check, title, evidence, columns=tuple(sparse)))
    return findings
