"""Task heads on hidden states for MLX.

Pooling, heads for classes, labels, numbers, ordered classes, forecasts, embeddings and rankings,
with numeric features, losses, NumPy metrics, calibration and thresholds, for any encoder whose
hidden states are (B, L, D).
"""

from mlx_heads.builtin_objectives import DEFAULT_PRIORITY
from mlx_heads.calibration import (
    Calibration,
    CalibrationMethod,
    calibration_curve,
    expected_calibration_error,
    fit_calibration,
)
from mlx_heads.classification import ClassificationHead, MultilabelHead
from mlx_heads.competitions import COMPETITIONS, CompetitionTask, get_competition
from mlx_heads.cut_points import CutPointMetric, apply_cut_points, best_cut_points
from mlx_heads.feature_scaler import FeatureScaler
from mlx_heads.forecasting import ForecastHead
from mlx_heads.intervals import fit_interval_scale
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
from mlx_heads.metrics import (
    DEFAULT_METRIC,
    METRICS,
    Metric,
    confusion_matrix,
    get_metric,
    naive_scale,
)
from mlx_heads.ordinal import ClassNumberHead, CoralHead, CornHead, CumulativeLinkHead
from mlx_heads.pooled_heads import HeadOptions, NumericBranch, PooledHead
from mlx_heads.pooling import AttentionPooling, LayerMix, Pooling, pool, pooled_size
from mlx_heads.ranking import EmbeddingHead, RankingHead
from mlx_heads.registry import (
    Objective,
    get_objective,
    objective_for_competition,
    objectives,
    register_objective,
)
from mlx_heads.regression import GaussianHead, LogRegressionHead, QuantileHead, RegressionHead
from mlx_heads.target_scaler import TargetScaler, TargetTransform
from mlx_heads.thresholds import (
    MultilabelThresholdMetric,
    ThresholdMetric,
    best_threshold,
    best_thresholds,
)

__all__ = [
    "COMPETITIONS",
    "DEFAULT_METRIC",
    "DEFAULT_PRIORITY",
    "METRICS",
    "AttentionPooling",
    "Calibration",
    "CalibrationMethod",
    "ClassNumberHead",
    "ClassificationHead",
    "CompetitionTask",
    "CoralHead",
    "CornHead",
    "CumulativeLinkHead",
    "CutPointMetric",
    "EmbeddingHead",
    "FeatureScaler",
    "ForecastHead",
    "GaussianHead",
    "HeadOptions",
    "LayerMix",
    "Link",
    "LogRegressionHead",
    "Metric",
    "MultilabelHead",
    "MultilabelThresholdMetric",
    "NumericBranch",
    "Objective",
    "PooledHead",
    "Pooling",
    "QuantileHead",
    "RankingHead",
    "Reduction",
    "RegressionHead",
    "TargetScaler",
    "TargetTransform",
    "ThresholdMetric",
    "apply_cut_points",
    "asymmetric_loss",
    "best_cut_points",
    "best_threshold",
    "best_thresholds",
    "binary_cross_entropy",
    "calibration_curve",
    "confusion_matrix",
    "contrastive_loss",
    "coral_loss",
    "corn_loss",
    "cross_entropy",
    "cumulative_link_loss",
    "expected_calibration_error",
    "fit_calibration",
    "fit_interval_scale",
    "focal_loss",
    "gaussian_nll",
    "get_competition",
    "get_metric",
    "get_objective",
    "huber",
    "listnet_loss",
    "log_cosh",
    "margin_ranking_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "mean_squared_log_error",
    "multiple_negatives_ranking_loss",
    "naive_scale",
    "objective_for_competition",
    "objectives",
    "pool",
    "pooled_size",
    "quantile_loss",
    "r_drop_loss",
    "ranknet_loss",
    "register_objective",
    "smooth_l1",
    "supervised_contrastive_loss",
    "triplet_loss",
    "weighted_sum",
]
