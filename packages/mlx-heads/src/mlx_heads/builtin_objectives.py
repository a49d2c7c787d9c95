"""The built-in objectives: which head and loss train each task, under the names of boosting."""

from typing import Any

import mlx.core as mx

from mlx_heads.classification import ClassificationHead, MultilabelHead
from mlx_heads.forecasting import ForecastHead
from mlx_heads.losses import (
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
    ranknet_loss,
    supervised_contrastive_loss,
    triplet_loss,
)
from mlx_heads.ordinal import ClassNumberHead, CoralHead, CornHead, CumulativeLinkHead
from mlx_heads.ranking import EmbeddingHead, RankingHead
from mlx_heads.registry import register_objective
from mlx_heads.regression import GaussianHead, LogRegressionHead, QuantileHead, RegressionHead

# The priority of the default of each task; the other built-in objectives have 0.
DEFAULT_PRIORITY = 10

_DEFAULT = {"priority": DEFAULT_PRIORITY}
_GAUSSIAN = {"head_options": {"distribution": "gaussian"}}
_PROBIT = {"head_options": {"link": "probit"}}
_CLOGLOG = {"head_options": {"link": "cloglog"}}
_LEVELS = {"head_options": {"levels": (0.05, 0.5, 0.95)}}
# Its classes are ordered, but its metric is accuracy, which likes the likeliest class.
_REVIEWS = {"competitions": ("sentiment-analysis-on-movie-reviews",)}


def class_cross_entropy(
    outputs: mx.array, targets: mx.array, *arguments: Any, **options: Any
) -> mx.array:
    """Return the `cross_entropy` of what `ClassificationHead` gives, also for two classes.

    Its one logit (B,) is that of class 1; the logit of class 0 is 0.
    """
    if outputs.ndim == 1:
        outputs = mx.stack([mx.zeros_like(outputs), outputs], axis=-1)
    return cross_entropy(outputs, targets, *arguments, **options)


_OBJECTIVES = {
    "binary": (
        ("cross_entropy", ClassificationHead, binary_cross_entropy, _DEFAULT),
        ("focal", ClassificationHead, focal_loss, {}),
        ("asymmetric", ClassificationHead, asymmetric_loss, {}),
    ),
    "multiclass": (
        ("cross_entropy", ClassificationHead, class_cross_entropy, _DEFAULT),
        ("focal", ClassificationHead, focal_loss, {}),
    ),
    "multilabel": (
        ("cross_entropy", MultilabelHead, binary_cross_entropy, _DEFAULT),
        ("focal", MultilabelHead, focal_loss, {}),
        ("asymmetric", MultilabelHead, asymmetric_loss, {}),
    ),
    "regression": (
        ("mse", RegressionHead, mean_squared_error, _DEFAULT),
        ("huber", RegressionHead, huber, {}),
        ("mae", RegressionHead, mean_absolute_error, {}),
        ("log_cosh", RegressionHead, log_cosh, {}),
        ("quantile", QuantileHead, quantile_loss, {}),
        ("gaussian_nll", GaussianHead, gaussian_nll, {}),
        ("beta_nll", GaussianHead, gaussian_nll, {"beta": 0.5}),
        ("msle", LogRegressionHead, mean_squared_log_error, {}),
    ),
    "ordinal": (
        ("corn", CornHead, corn_loss, _DEFAULT),
        ("coral", CoralHead, coral_loss, {}),
        ("cumulative_logit", CumulativeLinkHead, cumulative_link_loss, {}),
        ("cumulative_probit", CumulativeLinkHead, cumulative_link_loss, _PROBIT),
        ("cumulative_cloglog", CumulativeLinkHead, cumulative_link_loss, _CLOGLOG),
        ("cross_entropy", ClassificationHead, class_cross_entropy, _REVIEWS),
        ("mse", ClassNumberHead, mean_squared_error, {}),
    ),
    "forecast": (
        ("mse", ForecastHead, mean_squared_error, _DEFAULT),
        ("huber", ForecastHead, huber, {}),
        ("mae", ForecastHead, mean_absolute_error, {}),
        ("quantile", ForecastHead, quantile_loss, _LEVELS),
        ("gaussian_nll", ForecastHead, gaussian_nll, _GAUSSIAN),
    ),
    "embedding": (
        ("multiple_negatives", EmbeddingHead, multiple_negatives_ranking_loss, _DEFAULT),
        ("supervised_contrastive", EmbeddingHead, supervised_contrastive_loss, {}),
        ("contrastive", EmbeddingHead, contrastive_loss, {}),
        ("triplet", EmbeddingHead, triplet_loss, {}),
    ),
    "ranking": (
        ("listnet", RankingHead, listnet_loss, _DEFAULT),
        ("ranknet", RankingHead, ranknet_loss, {}),
        ("margin", RankingHead, margin_ranking_loss, {}),
    ),
}

for _task, _rows in _OBJECTIVES.items():
    for _name, _head, _loss, _options in _rows:
        register_objective(_name, _task, loss=_loss, **_options)(_head)
