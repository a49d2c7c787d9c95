"""Task heads on hidden states for MLX.

Pooling, binary, multiclass and regression heads with numeric features, per-example losses, NumPy
metrics, calibration and thresholds, for any encoder whose hidden states are (B, L, D).
"""

from mlx_heads.calibration import calibration_curve, expected_calibration_error
from mlx_heads.losses import (
    binary_cross_entropy,
    cross_entropy,
    huber,
    mean_squared_error,
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
    "Metric",
    "NumericBranch",
    "Pooling",
    "RegressionHead",
    "TargetScaler",
    "TargetTransform",
    "ThresholdMetric",
    "best_threshold",
    "binary_cross_entropy",
    "calibration_curve",
    "confusion_matrix",
    "cross_entropy",
    "expected_calibration_error",
    "get_metric",
    "huber",
    "mean_squared_error",
    "pool",
    "pooled_size",
    "weighted_sum",
]
