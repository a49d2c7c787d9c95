"""The section of the configuration on variants of members, which are measured beside them."""

from dataclasses import dataclass
from typing import Literal

from mlx_trainer import setting


@dataclass(frozen=True)
class VariantSettings:
    """Variants of members: trained on the same folds, and left off unless they clearly help."""

    pseudo_labels: Literal["off", "auto"] = setting(
        "off",
        "Train again with confidently predicted rows of the test table; auto measures if it helps.",
        flag="--pseudo-labels",
    )
    precision: float = setting(
        0.95,
        "Share of right labels, on held-out training rows, from which pseudo-labels are confident.",
        above=0,
        at_most=1,
    )
    augment: Literal["off", "auto"] = setting(
        "off",
        "Train trees, tabular and text also on changed copies of rows; auto measures if it helps. "
        "off leaves the settings of text as they are.",
        flag="--augment",
    )
    jitter: float = setting(
        0.1, "Noise of numbers in copies, in standard deviations of the column.", at_least=0
    )
    swap: float = setting(
        0.1, "Share of category cells that a copy has of other rows.", at_least=0, at_most=1
    )
