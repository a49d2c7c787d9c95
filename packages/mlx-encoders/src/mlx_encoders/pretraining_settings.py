"""How to pretrain: data, steps, learning rate."""

import math
from dataclasses import dataclass

from mlx_encoders.masking import Masking


@dataclass(frozen=True)
class PretrainingSettings:
    """How to pretrain; the defaults adapt a pretrained encoder to a domain.

    From fresh weights use a larger `learning_rate`, such as 5e-4, and many epochs.
    """

    length: int = 128
    """Tokens a row, special ones included."""
    join: bool = True
    """Whether rows are full and go on with the next document, or each document starts a row."""
    batch_size: int = 32
    epochs: int = 1
    steps: int | None = None
    """Updates, instead of `epochs`."""
    learning_rate: float = 1e-4
    warmup_share: float = 0.1
    """Of the steps, in which the rate increases from 0; then it decreases to 0, both linearly."""
    weight_decay: float = 0.01
    """Of matrices; norms and biases have none."""
    max_grad_norm: float = 1.0
    masking: Masking | None = None
    """None is that of the architecture."""
    held_out_share: float = 0.05
    """Of the documents, which are not trained on."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(
                f"steps must be at least 1, or None for whole epochs; got {self.steps}"
            )
        for name in ("warmup_share", "held_out_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if min(self.learning_rate, self.max_grad_norm) <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"learning_rate and max_grad_norm must be positive and weight_decay not negative, "
                f"got {self.learning_rate}, {self.max_grad_norm} and {self.weight_decay}"
            )

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of update `step`, which counts from 0."""
        warmup = math.ceil(self.warmup_share * steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * (steps - step) / (steps - warmup)
