"""Adversarial validation: can a model tell the rows of another table from training rows?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from mlx_kaggle.checks import Finding
from mlx_kaggle.checks.inputs import Block, Inputs, column_blocks, joined_rows
from mlx_kaggle.tables.competition import list_names
from mlx_kaggle.tables.files import row_count
from mlx_tabtext import is_missing

FOLDS = 5
MIN_ROWS = 50
# Areas under the curve: 0.5 is what tables drawn at random have.
TOLD, TOLD_WELL = 0.6, 0.75
ERRORS = 3.0
COLUMNS_SHOWN, REMOVED = 5, 3
# Of one column: Kolmogorov-Smirnov distance, rows of unseen categories, change of missing shares.
SHIFTED, SHIFTED_FAR = 0.1, 0.5
P_VALUE = 0.001


@dataclass(frozen=True)
class Adversarial:
    """Out-of-fold area under the curve of train against test, and what gives test away."""

    auc: float
    error: float
    rows: tuple[int, int]
    columns: tuple[tuple[str, float], ...] = ()
    """The fall of the area when the column is permuted, the largest first."""
    without: tuple[tuple[str, float], ...] = ()
    """The area again, without this column and those before it."""

    @property
    def told(self) -> bool:
        """Whether the tables differ by more than chance."""
        return self.auc > max(0.5 + ERRORS * self.error, TOLD)


def check_shift(inputs: Inputs) -> tuple[list[Finding], dict[str, Adversarial]]:
    """Return findings on each other table, and its adversarial validation by file."""
    findings: list[Finding] = []
    adversarial: dict[str, Adversarial] = {}
    for file, table in inputs.others.items():
        train = inputs.labelled
        count = row_count(table)
        if min(count, len(inputs.rows)) < MIN_ROWS:
            findings.append(Finding("fine", "shift", f"{file} has too few rows to compare",
                                    (f"fewer than {MIN_ROWS}",)))  # fmt: skip
            continue
        mine, theirs = inputs.sample(len(inputs.rows)), inputs.sample(count)
        tables = [joined_rows(train, mine), joined_rows(table, theirs)]
        blocks = column_blocks(inputs.schema, tables, inputs.seed)
        if not blocks:
            continue
        is_other = np.repeat([0, 1], [len(mine), len(theirs)])
        found = validate_adversarially(blocks, is_other, inputs.seed)
        adversarial[file] = found
        sampled = inputs.sampled(max(len(inputs.rows), count))
        findings.append(_adversarial_finding(found, file, sampled))
        findings += _columns_shifted(inputs, file, blocks, is_other, tables)
    return findings, adversarial


def validate_adversarially(blocks: Sequence[Block], is_other: np.ndarray, seed: int) -> Adversarial:
    """Train gradient boosting to tell the tables apart; name the columns that help it."""
    rows = int((is_other == 0).sum()), int(is_other.sum())
    models = _fit(blocks, is_other, seed)
    auc = _area(models, blocks, is_other)
    found = Adversarial(auc, _standard_error(auc, *rows), rows)
    if not found.told:
        return found
    rng = np.random.default_rng(seed)
    falls = {}
    for at, block in enumerate(blocks):
        shuffled = list(blocks)
        shuffled[at] = Block(block.name, rng.permutation(block.values), block.categorical)
        falls[block.name] = auc - _area(models, shuffled, is_other)
    ranked = sorted(falls.items(), key=lambda each: -each[1])[:COLUMNS_SHOWN]
    rest, without = list(blocks), []
    for name, _ in ranked[:REMOVED]:
        rest = [block for block in rest if block.name != name]
        if not rest:
            break
        without.append((name, _area(_fit(rest, is_other, seed), rest, is_other)))
        if without[-1][1] < TOLD:
            break
    return Adversarial(auc, found.error, rows, tuple(ranked), tuple(without))


def _fit(blocks: Sequence[Block], is_other: np.ndarray, seed: int) -> list:
    x = np.hstack([block.values for block in blocks])
    x = x if np.isfinite(x).any(0).all() else np.where(np.isfinite(x).any(0), x, 0.0)
    options: dict[str, Any] = {
        "max_iter": 60,
        "max_leaf_nodes": 15,
        "early_stopping": False,
        "random_state": seed,
    }
    options["categorical_features"] = np.repeat(
        [b.categorical for b in blocks], [b.values.shape[1] for b in blocks]
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    models = []
    with threadpool_limits(1, "openmp"):
        for fit, held in folds.split(x, is_other):
            model = HistGradientBoostingClassifier(**options)
            fitted = np.where(np.isfinite(x[fit]).any(0), x[fit], 0.0)
            models.append((model.fit(fitted, is_other[fit]), held))
    return models


def _area(models: list, blocks: Sequence[Block], is_other: np.ndarray) -> float:
    x = np.hstack([block.values for block in blocks])
    probability = np.zeros(len(x))
    with threadpool_limits(1, "openmp"):
        for model, held in models:
            probability[held] = model.predict_proba(x[held])[:, 1]
    return float(roc_auc_score(is_other, probability))


def _standard_error(auc: float, negative: int, positive: int) -> float:
    """Return the standard error of an area under the curve (Hanley and McNeil 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positive - 1) * (q1 - auc**2) + (negative - 1) * (q2 - auc**2)
    return float(np.sqrt(max(spread, 0.0) / (negative * positive)))


def _adversarial_finding(found: Adversarial, file: str, sampled: str) -> Finding:
    area = f"area under the curve {found.auc:.3f} ± {found.error:.3f}"
    evidence = [f"{area}, 0.5 is chance; {found.rows[0]:,} training rows, {found.rows[1]:,} others"
                + (f"; {sampled} of the larger table" if sampled else "")]  # fmt: skip
    if not found.told:
        return Finding("fine", "adversarial validation",
                       f"rows of {file} look like training rows", tuple(evidence))  # fmt: skip
    evidence.append("what gives them away: " + ", ".join(
        f"{name} ({fall:+.3f})" for name, fall in found.columns))  # fmt: skip
    evidence += [f"without {name}{' too' if at else ''}: {area:.3f}"
                 for at, (name, area) in enumerate(found.without)]  # fmt: skip
    return Finding(
        "must look" if found.auc >= TOLD_WELL else "worth knowing", "adversarial validation",
        f"a model tells rows of {file} from training rows", tuple(evidence),
        "a cross-validated score does not hold for other rows: validate on rows that are like "
        "them (later, other groups), or leave these columns out",
        tuple(name for name, _ in found.columns),
    )  # fmt: skip


def _columns_shifted(
    inputs: Inputs, file: str, blocks: Sequence[Block], is_other: np.ndarray, tables: list
) -> list[Finding]:
    """Return one finding on the columns whose own distribution differs."""
    lines: dict[str, tuple[float, str]] = {}
    for block in blocks:
        mine, theirs = block.values[is_other == 0], block.values[is_other == 1]
        missing = [np.isnan(each[:, 0]).mean() for each in (mine, theirs)]
        distance, line = abs(missing[1] - missing[0]), ""
        if distance > SHIFTED:
            line = f"missing in {missing[0]:.1%} of the training rows and {missing[1]:.1%} of these"
        if block.categorical:
            unseen = _unseen(tables, block.name)
            if unseen > SHIFTED:
                distance, line = unseen, f"{unseen:.1%} of the rows have a category not in train"
        else:
            # Days since 1970 are the last part of a date, and the length the first of a text.
            at = -1 if inputs.schema[block.name].kind == "date" else 0
            filled = [each[np.isfinite(each[:, at]), at] for each in (mine, theirs)]
            if min(map(len, filled)) >= MIN_ROWS:
                test: Any = ks_2samp(*filled, method="asymp")
                if test.statistic > max(SHIFTED, distance) and test.pvalue < P_VALUE / len(blocks):
                    middle = [np.median(each) for each in filled]
                    distance = float(test.statistic)
                    line = (f"Kolmogorov-Smirnov distance {distance:.2f}, medians "
                            f"{middle[0]:.6g} and {middle[1]:.6g}")  # fmt: skip
        if line:
            lines[block.name] = distance, f"{block.name}: {line}"
    if not lines:
        return [Finding("fine", "shift", f"each column of {file} is distributed as in train")]
    ranked = sorted(lines.values(), key=lambda each: -each[0])
    far = ranked[0][0] > SHIFTED_FAR
    names = sorted(lines, key=lambda name: -lines[name][0])
    return [Finding(
        "must look" if far else "worth knowing", "shift",
        f"{len(lines)} column{'s' if len(lines) > 1 else ''} of {file} shifted: "
        f"{list_names(names, COLUMNS_SHOWN)}",
        tuple(line for _, line in ranked[:8]), "", tuple(names),
    )]  # fmt: skip


def _unseen(tables: list, name: str) -> float:
    """Return the share of rows of the second table with a category that the first does not have."""
    known = {str(cell).strip() for cell in tables[0][name]}
    cells = tables[1][name]
    unseen = sum(not is_missing(cell) and str(cell).strip() not in known for cell in cells)
    return unseen / len(cells)
