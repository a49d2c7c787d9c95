"""Run every check of the tables of a competition."""

from dataclasses import dataclass
from typing import Any

from mlx_kaggle.checks import SEVERITIES, Finding, count_severities
from mlx_kaggle.checks.inputs import Inputs, read_inputs
from mlx_kaggle.checks.leaks import check_leaks
from mlx_kaggle.checks.rows import check_rows
from mlx_kaggle.checks.schema import ColumnRow, check_schema, describe_schema
from mlx_kaggle.checks.shift import Adversarial, check_shift
from mlx_kaggle.checks.targets import check_targets
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.files import row_count


@dataclass(frozen=True)
class Validation:
    """What the checks found, the worst first."""

    inputs: Inputs
    findings: list[Finding]
    schema: list[ColumnRow]
    adversarial: dict[str, Adversarial]

    @property
    def must_look(self) -> bool:
        """Whether something must be looked at."""
        return any(finding.severity == "must look" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        competition, tables = self.inputs.competition, self.inputs.others
        return {
            "must_look": self.must_look,
            "counts": count_severities(self.findings),
            "task": competition.task,
            "targets": competition.targets,
            "metric": competition.metric,
            "rows": {
                self.inputs.data.train: row_count(self.inputs.tables.train),
                **{file: row_count(table) for file, table in tables.items()},
            },
            "findings": [finding.to_dict() for finding in self.findings],
            "columns": [vars(row) for row in self.schema],
            "adversarial": {file: vars(each) for file, each in self.adversarial.items()},
        }


def validate_data(data: DataSettings, seed: int, most: int) -> Validation:
    """Check the tables; models read at most `most` rows of each.

    Raises `DataError` if there is nothing to check: no target, no column to learn from.
    """
    inputs, findings = read_inputs(data, seed, most)
    if inputs.tables.sample_submission is not None and inputs.competition.submission is None:
        findings.append(Finding("worth knowing", "sample submission", "it is not used",
                                tuple(inputs.competition.notes)))  # fmt: skip
    elif inputs.competition.submission is not None and inputs.tables.test is not None:
        notes = tuple(n for n in inputs.competition.notes if "are not in" in n)
        findings.append(Finding("worth knowing" if notes else "fine", "sample submission",
                                "it names rows of the test table" if notes else
                                "its ids are those of the test table", notes))  # fmt: skip
    findings += [*check_schema(inputs), *check_rows(inputs), *check_targets(inputs)]
    shifted, adversarial = check_shift(inputs)
    findings += [*check_leaks(inputs), *shifted]
    findings += _inferred(inputs)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Validation(inputs, findings, describe_schema(inputs), adversarial)


def _inferred(inputs: Inputs) -> list[Finding]:
    """Return the notes of the inference about another reading of target or columns."""
    other = ("add --task", "if they are labels", "if it is a label")
    notes = [n for n in inputs.competition.notes if any(each in n for each in other)]
    return [Finding("worth knowing", "reading", "another reading is possible", (note,))
            for note in notes]  # fmt: skip
