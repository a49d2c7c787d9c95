"""Losses as pure functions of arrays: float32, one per row unless a reduction is asked for.

Shapes are checked, but values are not: reading them would break a compiled step. A (B, 1) output
with (B,) targets is an error, because broadcasting would train on B x B pairs.

Every loss takes `sample_weight` (B,), and `reduction`: "none" returns the (B,) losses times their
weights, "sum" adds these, and "mean" divides the sum by the sum of the weights. A loss with targets
takes `ignore_index` too: a target equal to it has loss 0 and weight 0, whatever its output holds.
`float("nan")` ignores NaN targets. A row of weight 0 is ignored in the same way. The mean of no row
is 0 (NaN in torch), so that a batch without targets leaves the weights as they are.
"""

from mlx_heads.losses.classification import (
    asymmetric_loss,
    binary_cross_entropy,
    cross_entropy,
    focal_loss,
    r_drop_loss,
)
from mlx_heads.losses.contrastive import (
    contrastive_loss,
    multiple_negatives_ranking_loss,
    supervised_contrastive_loss,
    triplet_loss,
)
from mlx_heads.losses.ordinal import Link, coral_loss, corn_loss, cumulative_link_loss
from mlx_heads.losses.ranking import listnet_loss, margin_ranking_loss, ranknet_loss
from mlx_heads.losses.reduction import Reduction, weighted_sum
from mlx_heads.losses.regression import (
    gaussian_nll,
    huber,
    log_cosh,
    mean_absolute_error,
    mean_squared_error,
    mean_squared_log_error,
    quantile_loss,
    smooth_l1,
)

__all__ = [
    "Link",
    "Reduction",
    "asymmetric_loss",
    "binary_cross_entropy",
    "contrastive_loss",
    "coral_loss",
    "corn_loss",
    "cross_entropy",
    "cumulative_link_loss",
    "focal_loss",
    "gaussian_nll",
    "huber",
    "listnet_loss",
    "log_cosh",
    "margin_ranking_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "mean_squared_log_error",
    "multiple_negatives_ranking_loss",
    "quantile_loss",
    "r_drop_loss",
    "ranknet_loss",
    "smooth_l1",
    "supervised_contrastive_loss",
    "triplet_loss",
    "weighted_sum",
]
