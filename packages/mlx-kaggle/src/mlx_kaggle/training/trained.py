"""What training leaves in memory: predictions of members, and what variants of them gained."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlx_kaggle.members.catalog import label_of
from mlx_kaggle.training.job import Job
from mlx_kaggle.training.pseudo_labels import Facts


@dataclass(frozen=True)
class Measured:
    """A variant and its member, on the same rows."""

    name: str
    loss: float
    loss_without: float
    """Of the member itself."""
    standard_error: float
    """Of the difference: the larger one of that over rows and that over the means of the folds."""
    kept: bool
    """Whether the variant predicts in place of its member."""
    folds: int
    """How many folds have it in their score, by the rows of the others."""
    seconds: float

    @property
    def gain(self) -> float:
        """By how much the variant lowers the loss."""
        return self.loss_without - self.loss

    def describe(self, kind: str, folds: int) -> str:
        """Return the comparison in a line."""
        what = "taken" if self.kept else "left off"
        if 0 < self.folds < folds or self.kept != (self.folds > 0):
            what += f" (taken in the score of {self.folds} of {folds} parts)"
        gain = f"gain {self.gain:+.4f}, standard error {self.standard_error:.4f}"
        return (f"{self.name}: {kind} {self.loss:.4f}, without {self.loss_without:.4f}; {gain}: "
                f"{what}; {self.seconds:.1f} s")  # fmt: skip


@dataclass
class Trained:
    """What the members of a run predict for the rows that they were not trained on."""

    job: Job
    members: list[str] = field(default_factory=list)
    """The members that were trained on every fold."""
    predictions: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Of each fold, in the unit of the target."""
    seconds: dict[str, float] = field(default_factory=dict)
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of each network, by the name of its folder."""
    gains: list[Any] = field(default_factory=list)
    """Of the generated columns, of each fold."""
    notes: list[str] = field(default_factory=list)
    labels: list[Facts] = field(default_factory=list)
    """Of the pseudo-labels, of each fold."""
    variants: list[Measured] = field(default_factory=list)

    @property
    def out_of_fold(self) -> dict[str, np.ndarray]:
        """The prediction of the scored rows by each member, by its label."""
        competition = self.job.competition
        return {
            label_of(competition, name): np.concatenate(self.predictions[name])
            for name in self.members
        }

    @property
    def times(self) -> dict[str, float]:
        """The seconds of each member, by its label."""
        return {label_of(self.job.competition, name): self.seconds[name] for name in self.members}
