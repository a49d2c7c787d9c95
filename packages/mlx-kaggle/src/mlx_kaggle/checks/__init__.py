"""Checks of the tables of a competition before training: `mlx-kaggle validate-data`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mlx_kaggle.settings.sections import DataSettings
from mlx_trainer import setting

Severity = Literal["must look", "worth knowing", "fine"]
SEVERITIES: tuple[Severity, ...] = ("must look", "worth knowing", "fine")


@dataclass(frozen=True)
class CheckFlags:
    """The flags of `train` that say what the tables are."""

    seed: int = setting(0, "Seed of samples and folds.", flag="--seed", at_least=0)
    data: DataSettings = field(default_factory=DataSettings)


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    severity: Severity
    check: str
    """What was checked, the same word whatever was found."""
    title: str
    evidence: tuple[str, ...] = ()
    """Counts, and first rows by row number in the file (the header is row 1)."""
    advice: str = ""
    columns: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)


def count_severities(findings: Sequence[Finding]) -> dict[Severity, int]:
    """Return how many findings have each severity, the worst first."""
    return {each: sum(f.severity == each for f in findings) for each in SEVERITIES}


def first_rows(rows: Sequence[int], shown: int = 3) -> str:
    """List the first of some row numbers: "rows 3, 7, 9, ... 12 more"."""
    listed = ", ".join(str(row) for row in rows[:shown])
    more = f", ... {len(rows) - shown:,} more" if len(rows) > shown else ""
    return f"row{'s' if len(rows) > 1 else ''} {listed}{more}"
