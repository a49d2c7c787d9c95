"""Does a variant of a member help? Measured on rows that it was not trained on, and decided."""

from collections.abc import Sequence

import numpy as np

from mlx_kaggle.members.variants import PSEUDO, base_of, variant_of
from mlx_kaggle.prediction.blended import aligned, loss_of
from mlx_kaggle.training.job import Job
from mlx_kaggle.training.pseudo_labels import Facts, describe
from mlx_kaggle.training.trained import Measured, Trained

# A gain of fewer standard errors may be noise.
CLEAR = 2.0
LOSSES = {"log": "log loss", "labels": "log loss", "squared": "squared error",
          "absolute": "absolute error"}  # fmt: skip


def variants_left(job: Job, members: Sequence[str], labels: Sequence[Facts] = ()) -> list[str]:
    """Return the variants of a job whose members are trained.

    Those with pseudo-labels are not if the first fold has none; `labels` are of the folds so far.
    """
    without = bool(labels) and not labels[0].accepted
    return [
        name
        for name in job.variants
        if base_of(name) in members and not (without and variant_of(name) == PSEUDO)
    ]


def settle(found: Trained) -> Trained:
    """Replace members by their variants that clearly help, and note what was measured.

    Each part of the rows is predicted by what is chosen on the other parts, so its own targets do
    not choose; new rows by what is chosen on all rows.
    """
    job = found.job
    if found.labels:
        found.notes.append(describe(found.labels, found.seconds[PSEUDO]))
    names = variants_left(job, found.members, found.labels)
    for base in [name for name in found.members if any(base_of(each) == name for each in names)]:
        _settle_member(found, base, [name for name in names if base_of(name) == base])
    kind = LOSSES[loss_of(job.competition).kind]
    found.notes += [each.describe(kind, len(job.parts)) for each in found.variants]
    return found


def _settle_member(found: Trained, base: str, variants: list[str]) -> None:
    job = found.job
    predictions = {name: np.concatenate(found.predictions[name]) for name in (base, *variants)}
    truth, loss = job.encoded[job.scored_rows], loss_of(job.competition)
    compared = aligned(job.competition, predictions)
    losses = {name: loss.rows(truth, each) for name, each in compared.items()}
    gains = {name: losses[base] - losses[name] for name in variants}
    parts = job.parts
    nested, chosen_by_part = predictions[base].copy(), []
    for at, part in enumerate(parts):
        others = [each for place, each in enumerate(parts) if place != at]
        chosen_by_part.append(best_variant(gains, others) or base)
        nested[part] = predictions[chosen_by_part[-1]][part]
    chosen = best_variant(gains, parts) or base
    found.variants += [
        Measured(
            name,
            float(losses[name].mean()),
            float(losses[base].mean()),
            standard_error(gains[name], parts),
            name == chosen,
            chosen_by_part.count(name),
            found.seconds[name],
        )
        for name in variants
    ]
    found.members[found.members.index(base)] = chosen
    ends = np.cumsum([len(val) for _, val in job.splits])[:-1]
    found.predictions[chosen] = np.split(nested, ends)


def best_variant(gains: dict[str, np.ndarray], parts: Sequence[np.ndarray]) -> str | None:
    """Return the variant of the largest gain on these rows, of those whose gain is clear."""
    rows = np.concatenate(parts)
    means = {name: float(each[rows].mean()) for name, each in gains.items()}
    clear = [name for name in gains if means[name] > CLEAR * standard_error(gains[name], parts)]
    return max(clear, key=lambda name: means[name]) if clear else None


def standard_error(gains: np.ndarray, parts: Sequence[np.ndarray]) -> float:
    """Return the standard error of the mean gain of the rows in `parts`.

    The rows of a fold share a model, whose luck moves them together: then the error over the folds
    is the larger one.
    """
    rows, means = np.concatenate([gains[part] for part in parts]), [gains[p].mean() for p in parts]
    errors = [np.std(each, ddof=1) / len(each) ** 0.5 for each in (rows, means) if len(each) > 1]
    return float(max(errors, default=np.inf))
