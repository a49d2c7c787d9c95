"""Metrics by name, in float64, with sample weights."""

from mlx_heads.metrics.labels import confusion_matrix
from mlx_heads.metrics.registry import DEFAULT_METRIC, METRICS, Metric, get_metric
from mlx_heads.metrics.values import naive_scale

__all__ = ["DEFAULT_METRIC", "METRICS", "Metric", "confusion_matrix", "get_metric", "naive_scale"]
