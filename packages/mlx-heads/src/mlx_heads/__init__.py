"""Task heads on hidden states for MLX.

Pooling, binary, multiclass and regression heads with numeric features, per-example losses, NumPy
metrics, calibration and thresholds, for any encoder whose hidden states are (B, L, D).
"""

from mlx_heads.calibration import (
    Calibration,
    CalibrationMethod,
    calibration_curve,
    expected_calibration_error,
    fit_calibration,
)
from mlx_heads.cut_points import CutPointMetric, apply_cut_points, best_cut_points
from mlx_heads.intervals import fit_interval_scale
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
from mlx_heads.thresholds import (
    MultilabelThresholdMetric,
    ThresholdMetric,
    best_threshold,
    best_thresholds,
)

__all__ = [
    "DEFAULT_METRIC",
    "METRICS",
    "Calibration",
    "CalibrationMethod",
    "ClassificationHead",
    "CutPointMetric",
    "Metric",
    "MultilabelThresholdMetric",
    "NumericBranch",
    "Pooling",
    "RegressionHead",
    "TargetScaler",
    "TargetTransform",
    "ThresholdMetric",
    "apply_cut_points",
    "best_cut_points",
    "best_threshold",
    "best_thresholds",
    "binary_cross_entropy",
    "calibration_curve",
    "confusion_matrix",
    "cross_entropy",
    "expected_calibration_error",
    "fit_calibration",
    "fit_interval_scale",
    "get_metric",
    "huber",
    "mean_squared_error",
    "pool",
    "pooled_size",
    "weighted_sum",
]
