"""Task heads on hidden states for MLX.

Pooling, binary, multiclass and regression heads with numeric features, per-example losses, NumPy
metrics, calibration and thresholds, for any encoder whose hidden states are (B, L, D).
"""

from mlx_heads.calibration import calibration_curve, expected_calibration_error
from mlx_heads.losses import (
    Link,
    Reduction,
    asymmetric_loss,
    binary_cross_entropy,
    contrastive_loss,
    coral_loss,
    corn_loss,
    cross_entropy,
    cumulative_link_loss,
    focal_loss,
    gaussian_nll,
    huber,
    listnet_loss,
    log_cosh,
    margin_ranking_loss,
    mean_absolute_error,
    mean_squared_error,
    mean_squared_log_error,
    multiple_negatives_ranking_loss,
    quantile_loss,
    r_drop_loss,
    ranknet_loss,
    smooth_l1,
    supervised_contrastive_loss,
    triplet_loss,
    weighted_sum,
)
from mlx_heads.metrics import DEFAULT_METRIC, METRICS, Metric, confusion_matrix, get_metric
from mlx_heads.pooled_heads import ClassificationHead, NumericBranch, RegressionHead
from mlx_heads.pooling import Pooling, pool, pooled_size
from mlx_heads.target_scaler import TargetScaler, TargetTransform
from mlx_heads.thresholds import ThresholdMetric, best_threshold

__all__ = [
    "DEFAULT_METRIC",
    "METRICS",
    "ClassificationHead",
    "Link",
    "Metric",
    "NumericBranch",
    "Pooling",
    "Reduction",
    "RegressionHead",
    "TargetScaler",
    "TargetTransform",
    "ThresholdMetric",
    "asymmetric_loss",
    "best_threshold",
    "binary_cross_entropy",
    "calibration_curve",
    "confusion_matrix",
    "contrastive_loss",
    "coral_loss",
    "corn_loss",
    "cross_entropy",
    "cumulative_link_loss",
    "expected_calibration_error",
    "focal_loss",
    "gaussian_nll",
    "get_metric",
    "huber",
    "listnet_loss",
    "log_cosh",
    "margin_ranking_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "mean_squared_log_error",
    "multiple_negatives_ranking_loss",
    "pool",
    "pooled_size",
    "quantile_loss",
    "r_drop_loss",
    "ranknet_loss",
    "smooth_l1",
    "supervised_contrastive_loss",
    "triplet_loss",
    "weighted_sum",
]
