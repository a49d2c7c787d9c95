"""Checks of the target: balance, rare classes, spellings, missing cells, outliers, skew."""

from collections import Counter

import numpy as np
from scipy.stats import skew

from mlx_kaggle.checks import Finding, first_rows
from mlx_kaggle.checks.inputs import Inputs
from mlx_kaggle.settings.config import FOLDS
from mlx_kaggle.tables.competition import VALUE_TASKS, list_names, normalize_label
from mlx_kaggle.tables.files import row_count
from mlx_kaggle.tables.infer import LOG_METRICS
from mlx_kaggle.tables.splits import rare_classes
from mlx_kaggle.tables.tasks import find_classes
from mlx_tabtext import is_missing

MANY_MISSING = 0.2
RARE, VERY_RARE = 0.05, 0.002
SKEWED = 1.0
# Interquartile ranges beyond the quartiles, and in the logarithm of a skewed target.
FAR = 8.0
# A value that repeats, in a target of which most values do not.
CONTINUOUS, REPEATS, OF_ROWS = 0.5, 5, 0.005


def check_targets(inputs: Inputs) -> list[Finding]:
    """Return the findings on each target."""
    findings = _missing(inputs)
    task = inputs.competition.task
    if task in VALUE_TASKS:
        columns = inputs.encoded.reshape(len(inputs.encoded), -1)
        for name, values in zip(inputs.competition.targets, columns.T, strict=True):
            findings += _values(inputs, name, values)
    else:
        findings += [*_spellings(inputs), *_balance(inputs)]
        notes = rare_classes(inputs.encoded, inputs.competition.classes, FOLDS)
        if notes:
            findings.append(Finding("worth knowing", "rare classes",
                                    "classes have fewer rows than folds", tuple(notes),
                                    "merge them, or expect no score of them"))  # fmt: skip
    if not any(finding.severity != "fine" for finding in findings):
        findings.append(Finding("fine", "target", "the target has no missing cells, outliers, "
                                "rare classes or unlike spellings"))  # fmt: skip
    return findings


def _missing(inputs: Inputs) -> list[Finding]:
    count = row_count(inputs.tables.train)
    dropped = np.setdiff1d(np.arange(count), inputs.rows)
    if not len(dropped):
        return []
    share = len(dropped) / count
    return [Finding(
        "must look" if share > MANY_MISSING else "worth knowing", "missing targets",
        f"{len(dropped):,} of {count:,} rows have no target ({share:.1%})",
        (first_rows((dropped + 2).tolist()),), "train drops these rows",
    )]  # fmt: skip


def _spellings(inputs: Inputs) -> list[Finding]:
    """Return a finding on classes that are equal but for case and space."""
    findings = []
    targets = inputs.competition.targets if inputs.competition.task != "multilabel" else ()
    for name in targets:
        counts = Counter(str(cell) for cell in inputs.tables.train[name] if not is_missing(cell))
        alike: dict[str, list[str]] = {}
        for label in find_classes(list(counts)):
            alike.setdefault(" ".join(normalize_label(label).split()), []).append(label)
        pairs = [labels for labels in alike.values() if len(labels) > 1]
        if pairs:
            lines = [", ".join(f"{label!r} ({counts[label]} rows)" for label in labels)
                     for labels in pairs[:5]]  # fmt: skip
            findings.append(Finding(
                "must look", "spellings", f"classes of {name!r} differ only in case or space",
                tuple(lines), "spell each class in one way, or they are learned as several",
                (name,),
            ))  # fmt: skip
    return findings


def _balance(inputs: Inputs) -> list[Finding]:
    competition, y = inputs.competition, inputs.encoded
    names = competition.classes
    counts = y.sum(0) if y.ndim == 2 else np.bincount(y, minlength=len(names))
    shares = counts / len(y)
    listed = [f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True)]
    what = "labels" if y.ndim == 2 else "classes"
    check, evidence = "balance", (list_names(listed, 10),)
    if competition.task == "multilabel":
        low = [name for name, share in zip(names, shares, strict=True) if share < RARE]
        severity = "worth knowing" if low else "fine"
        title = f"{len(low)} of {len(names)} labels are in fewer than {RARE:.0%} of the rows"
        return [Finding(severity, check, title, evidence,
                        "a metric over labels is mostly about them" if low else "")]  # fmt: skip
    smallest = shares.min()
    if competition.task == "binary" and smallest < RARE:
        return [Finding(
            "must look" if smallest < VERY_RARE else "worth knowing", check,
            f"the rarer class has {smallest:.2%} of the rows", evidence,
            "accuracy is high without any model: --metric roc_auc, average_precision or f1",
        )]  # fmt: skip
    return [Finding("fine", check, f"{len(names)} {what}", evidence)]


def _values(inputs: Inputs, name: str, values: np.ndarray) -> list[Finding]:
    findings = []
    with_log = bool(values.min() > -1)
    skewness = float(skew(values))
    logarithm = float(skew(np.log1p(values))) if with_log else np.inf
    uses_log = inputs.competition.metric in LOG_METRICS
    skewed = skewness > SKEWED and abs(logarithm) < skewness / 2
    span = (f"{values.min():.6g} to {values.max():.6g}, median {np.median(values):.6g}",)
    if skewed and not uses_log:
        findings.append(Finding(
            "worth knowing", "skew", f"{name!r} is skewed: {skewness:.2f}, "
            f"of its logarithm {logarithm:.2f}", span,
            "if relative errors matter, train on the logarithm: --metric rmsle", (name,),
        ))  # fmt: skip
    findings += _outliers(inputs, name, np.log1p(values) if skewed else values, values)
    findings += _repeated(inputs, name, values)
    if not findings:
        findings.append(Finding("fine", "values", f"{name!r} has no outlier or odd value", span))
    return findings


def _outliers(inputs: Inputs, name: str, scaled: np.ndarray, values: np.ndarray) -> list[Finding]:
    low, high = np.quantile(scaled, (0.25, 0.75))
    spread = high - low
    far = np.flatnonzero((scaled < low - FAR * spread) | (scaled > high + FAR * spread))
    if not spread or not len(far) or len(far) > RARE * len(values):
        return []
    shown = sorted(far, key=lambda at: -abs(scaled[at] - np.median(scaled)))[:3]
    cells = ", ".join(f"{values[at]:.6g} in row {inputs.rows[at] + 2}" for at in shown)
    return [Finding("must look", "outliers", f"{len(far):,} values of {name!r} are far from all "
                    "others", (f"farthest: {cells}; quartiles {low:.6g} and {high:.6g}",),
                    "a mistake, or a code for something else? rmse is mostly about these rows",
                    (name,))]  # fmt: skip


def _repeated(inputs: Inputs, name: str, values: np.ndarray) -> list[Finding]:
    """Return a finding on a value that stands out among values that rarely repeat."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < CONTINUOUS * len(values):
        return []
    order = np.argsort(-counts, kind="stable")
    top, second = order[0], order[1] if len(order) > 1 else order[0]
    if counts[top] < max(REPEATS, OF_ROWS * len(values), 5 * counts[second]):
        return []
    value = distinct[top]
    rows = (inputs.rows[np.flatnonzero(values == value)] + 2).tolist()
    return [Finding("must look", "repeated value", f"{name!r} is {value:.6g} in {counts[top]:,} "
                    f"rows, and other values rarely repeat", (first_rows(rows),),
                    "a limit of the measurement, or a code for a missing value?",
                    (name,))]  # fmt: skip
