"""What an evaluation of one task found, and the scores made of several."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskResult:
    """Accuracy on `examples` questions, in [0, 1]; `baseline` is that of guessing.

    `pass_at` holds pass@1, pass@2, ... where several answers to each question were sampled.
    """

    name: str
    kind: str
    examples: int
    accuracy: float
    baseline: float
    pass_at: tuple[float, ...] = ()

    @property
    def centered(self) -> float:
        """Accuracy on a scale where guessing is 0 and perfection is 1."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    def as_dict(self) -> dict:
        """Return what `evaluation.json` says of this task."""
        found = {
            "type": self.kind,
            "examples": self.examples,
            "accuracy": self.accuracy,
            "baseline": self.baseline,
            "centered": self.centered,
        }
        if self.pass_at:
            found["pass_at"] = {str(k): value for k, value in enumerate(self.pass_at, start=1)}
        return found


def mean_centered(results: Sequence[TaskResult]) -> float:
    """Return the mean of the centered accuracies: CORE (arXiv 2406.11794), or ChatCORE."""
    if not results:
        raise ValueError("a score needs at least one task")
    return sum(result.centered for result in results) / len(results)
