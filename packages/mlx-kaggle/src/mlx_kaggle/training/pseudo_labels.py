"""Pseudo-labels of a fold: rows of the test table that join its training rows.

The quick members of the fold predict the test table. How sure they must be is measured on their
predictions of held-out training rows of the fold. Neither targets nor cells of its validation rows
are read, so a row of the test table that equals one of them gets the label of any new row.

Labels are hard: no member takes probabilities as targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mlx_kaggle.blend import Loss, cross_fit, fit_blend
from mlx_kaggle.machine import step_threads
from mlx_kaggle.members.catalog import CONSTANT, PLAIN, fit_arguments, is_text, module_of
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.fold_columns import FoldColumns
from mlx_kaggle.members.saved import load_arrays, load_json, save_arrays, save_json
from mlx_kaggle.members.variants import variant_of
from mlx_kaggle.prediction.decision import Decision
from mlx_kaggle.prediction.decision import cross_fit as cross_decide
from mlx_kaggle.settings.sections import DecisionSettings
from mlx_kaggle.tables.splits import split_rows
from mlx_kaggle.training.job import Job
from mlx_kaggle.training.network import TIME
from mlx_trainer import check_manifest, write_manifest

# Parts of the training rows, each predicted by members that were trained on the others. Slow
# members would take as long again as the fold, so they do not label.
PARTS = 3
SLOW = ("tabular", "embeddings")
# The precision of fewer held-out rows is chance, and more new rows drown those with a target.
LEAST, MOST = 20, 3
SETTINGS = DecisionSettings(calibration="temperature", thresholds="default")
FACTS, LABELS = "labels.json", "labels.npz"


@dataclass(frozen=True)
class Facts:
    """How sure the labels of a fold are."""

    tested: int
    """Rows of the test table."""
    accepted: int = 0
    threshold: float | None = None
    """Least calibrated probability of an accepted label; `None` if no label is precise enough."""
    measured: float | None = None
    """Precision of the held-out training rows above the threshold."""
    expected: float | None = None
    """Mean calibrated probability of the accepted labels."""


@dataclass(frozen=True)
class PseudoLabels:
    """Rows of the test table by position, and their class numbers."""

    rows: np.ndarray
    codes: np.ndarray
    facts: Facts

    @classmethod
    def fit(
        cls,
        job: Job,
        fitted: FoldColumns,
        train: Columns,
        y: np.ndarray,
        seed: int,
        folders: Mapping[str, Path],
    ) -> "PseudoLabels":
        """Label the test table of a job by trained members of a fold, in `folders` by name.

        `train` and `y` are of the training rows of the fold.
        """
        assert job.test is not None
        rows, parts, found = _held_out(job, list(folders), fitted, train, y, seed)
        truth, loss, every = y[rows], Loss("log"), np.arange(len(rows))
        mixed = cross_fit("stack", found, truth, every, parts, loss, seed)
        known, guessed = cross_decide(job.competition, SETTINGS, truth, mixed, parts, 0.0)
        confidence, right = known.max(1), guessed == truth
        threshold = least_confidence(confidence, right, job.config.variants.precision)

        blend, new = fit_blend("stack", found, truth, loss, seed), fitted.columns(job.test)
        predicted = {
            name: module_of(name).predict(
                module_of(name).load(folders[name]), _read_by(name, fitted, new)
            )
            for name in blend.members
        }
        decision = Decision.fit(job.competition, SETTINGS, truth, mixed, 0.0)
        sure, codes = decision.apply(job.competition, blend.apply(predicted))
        assert codes is not None
        if threshold is None:
            return cls(np.zeros(0, int), np.zeros(0, int), Facts(len(sure)))
        accepted = accept(sure, threshold, MOST * len(y), np.random.default_rng(seed))
        facts = Facts(
            len(sure),
            len(accepted),
            threshold,
            float(right[confidence >= threshold].mean()),
            float(sure[accepted].max(1).mean()) if len(accepted) else None,
        )
        return cls(accepted, codes[accepted], facts)

    def save(self, folder: Path, seconds: float) -> None:
        """Write labels.json, labels.npz and the time, and a manifest."""
        save_json(folder / FACTS, asdict(self.facts))
        save_json(folder / TIME, {"seconds": seconds})
        save_arrays(folder / LABELS, {"rows": self.rows, "codes": self.codes})
        write_manifest(folder, [FACTS, LABELS, TIME])

    @classmethod
    def load(cls, folder: Path) -> "PseudoLabels":
        """Read what `save` wrote; raise `ChangedFileError` when a file changed."""
        check_manifest(folder, (FACTS, LABELS))
        return cls(**load_arrays(folder / LABELS), facts=Facts(**load_json(folder / FACTS)))


def can_label(name: str) -> bool:
    """Whether a member labels: it is quick, and neither the constant nor a variant."""
    return name not in (CONSTANT, *SLOW) and not is_text(name) and not variant_of(name)


def least_confidence(confidence: np.ndarray, right: np.ndarray, precision: float) -> float | None:
    """Return the least confidence whose rows, and those above it, are right at least so often.

    `None` if that is true of no `LEAST` rows; `right` (N,) says which labels are.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_ = confidence[order]
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Rows of equal confidence are above a threshold together.
    last = np.append(sorted_[1:] < sorted_[:-1], True)
    good = np.flatnonzero(last & (share >= precision) & (np.arange(len(order)) >= LEAST - 1))
    return float(sorted_[good[-1]]) if len(good) else None


def accept(
    probabilities: np.ndarray, threshold: float, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the positions of the rows of (N, classes) that are labelled, in order; `most` of them.

    They have the classes in the shares that the table is expected to have: on adult 11 % of the
    confident rows have the rarer class, and 24 % of all. Those that are too many are drawn at
    random, because the surest ones tell the members what they know.
    """
    codes, confident = probabilities.argmax(1), probabilities.max(1) >= threshold
    shares = probabilities.mean(0)
    sure = [np.flatnonzero(confident & (codes == code)) for code in range(len(shares))]
    counts, occurs = np.array([len(rows) for rows in sure]), shares * len(codes) >= 1
    total = min(most, (counts[occurs] / shares[occurs]).min())
    kept = [
        rng.permutation(rows)[: round(total * share)]
        for rows, share in zip(sure, shares, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def _held_out(
    job: Job, names: list[str], fitted: FoldColumns, train: Columns, y: np.ndarray, seed: int
) -> tuple[np.ndarray, list[np.ndarray], dict[str, np.ndarray]]:
    """Predict training rows of a fold by members that were trained on its other training rows.

    Returns the rows, the parts as positions of them, and predictions by name of the member.
    """
    splits = split_rows(y, job.competition.task, PARTS, 0.0, seed)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for rows, held in splits:
        for name in names:
            read, module = _read_by(name, fitted, train), module_of(name)
            threads = step_threads(job.config.training.threads)
            options = fit_arguments(job.config, name)
            model = module.fit(
                job.competition, read.take(rows), y[rows], seed, job.levels, threads, **options
            )
            found[name].append(module.predict(model, read.take(held)))
    ends = np.cumsum([len(held) for _, held in splits])
    parts = np.split(np.arange(ends[-1]), ends[:-1])
    rows = np.concatenate([held for _, held in splits])
    return rows, parts, {name: np.concatenate(each) for name, each in found.items()}


def _read_by(name: str, fitted: FoldColumns, columns: Columns) -> Columns:
    return fitted.as_they_are(columns) if name == PLAIN else columns


def describe(facts: Sequence[Facts], seconds: float) -> str:
    """Say how many rows the folds have labelled, and how sure they are."""
    some = [each for each in facts if each.accepted]
    if not facts[0].accepted:
        return (f"pseudo-labels: left off, no label of {facts[0].tested} rows of the test table is "
                f"confident enough; {seconds:.1f} s")  # fmt: skip
    rows = _range([each.accepted for each in facts], ".0f")
    least, right, expected = (
        _range([getattr(each, name) for each in some], ".2f")
        for name in ("threshold", "measured", "expected")
    )
    return (f"pseudo-labels: {rows} of {facts[0].tested} rows of the test table in a fold, "
            f"confidence {least} or more; precision {right} on held-out training rows, "
            f"{expected} expected; {seconds:.1f} s")  # fmt: skip


def _range(values: Sequence[float], form: str) -> str:
    ends = dict.fromkeys(f"{each:{form}}" for each in (min(values), max(values)))
    return " to ".join(ends)
