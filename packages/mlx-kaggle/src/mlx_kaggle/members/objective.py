"""The objective of a run: its head and loss, and how the linear model adds to the head."""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from mlx_heads import (
    CoralHead,
    CumulativeLinkHead,
    GaussianHead,
    Objective,
    PooledHead,
    QuantileHead,
    get_objective,
    r_drop_loss,
    weighted_sum,
)
from mlx_kaggle.members.linear import KIND_OF_TASK, LinearKind
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition

Sums = tuple[mx.array, mx.array]  # of losses and weights
LossFunction = Callable[[nn.Module, dict[str, mx.array]], Sums]
# Keys of a batch that are no arguments of the model.
NO_INPUTS = ("targets", "weights")
# softplus of this is nearly 0: thresholds that the linear model already has.
NO_STEP = -4.0
# Chances are kept this far from 0 and 1, so that logits stay finite.
MARGIN = 1e-4


def objective_of(config: RunConfig, competition: Competition) -> Objective:
    """Return the head and the loss of a run, as `get_objective`."""
    name = config.loss.name
    # The targets are scaled logarithms already, which the squared error is then the loss of.
    return get_objective(competition.task, "mse" if name == "msle" else name)


def head_arguments(
    config: RunConfig, competition: Competition, hidden_size: int, num_features: int, seed: int
) -> dict[str, Any]:
    """Return the arguments of `make_model`, as JSON for `member.json`."""
    settings = config.head
    objective = objective_of(config, competition)
    options: dict[str, Any] = {}
    if "levels" in objective.head_options or objective.head is QuantileHead:
        options["levels"] = quantile_levels(config)
    if competition.forecast:
        # The windows are normalized by the table.
        options |= {"history_length": competition.forecast.lookback, "normalize": False}
    return {
        "task": competition.task,
        "loss": objective.name,
        "hidden_size": hidden_size,
        "size": competition.outputs,
        "pooling": settings.pooling,
        "layer_mix": settings.layer_mix,
        "dropout": settings.dropout,
        "hidden_layer_size": settings.hidden_size,
        "num_features": num_features,
        "feature_size": settings.feature_size,
        "seed": seed,
        **options,
    }


def quantile_levels(config: RunConfig) -> tuple[float, float, float]:
    """Return the levels of lower bound, median and upper bound."""
    tail = (1 - config.loss.coverage) / 2
    return tail, 0.5, 1 - tail


def linear_kind(competition: Competition, objective: Objective) -> LinearKind:
    """Return what the linear model predicts, so that its outputs can be added to the head's."""
    if competition.task == "ordinal" and objective.name in ("cross_entropy", "mse"):
        return "classes" if objective.name == "cross_entropy" else "values"
    return KIND_OF_TASK.get(competition.task, "classes")


def offset(outputs: np.ndarray, objective: Objective, head: PooledHead) -> np.ndarray:
    """Return outputs of the linear model in a shape, and on a scale, that adds to the head's."""
    if objective.task == "ordinal" and objective.name not in ("cross_entropy", "mse"):
        return link_logits(outputs.reshape(len(outputs), -1), objective.name)
    if is_gaussian(head):  # only the mean
        outputs = outputs.reshape(len(outputs), -1)
        return np.stack([outputs, np.zeros_like(outputs)], 2)
    if head.loss_options.get("levels"):
        return outputs.reshape(len(outputs), -1, 1)
    return outputs


def link_logits(outputs: np.ndarray, loss: str) -> np.ndarray:
    """Turn (N, K - 1) logits of y > k, decreasing over k, into those of a loss of mlx-heads.

    CORN has logits of y > k given y > k - 1; a cumulative link has its own inverse.
    """
    above = np.clip(expit(outputs.astype(np.float64)), MARGIN, 1 - MARGIN)
    if loss == "corn":
        reached = np.concatenate([np.ones((len(above), 1)), above[:, :-1]], 1)
        found = logit(np.clip(above / reached, MARGIN, 1 - MARGIN))
    elif loss == "cumulative_probit":
        found = norm.ppf(above)
    elif loss == "cumulative_cloglog":
        found = np.log(-np.log(1 - above))
    else:
        found = logit(above)
    return found.astype(np.float32)


def start_from_linear(head: PooledHead, residual: np.ndarray | None) -> None:
    """Let an untrained head add (nearly) nothing to the linear model.

    Its distribution gets the spread of the linear model: `residual` are the standard deviations
    (targets,) of the cross-fitted errors, `None` for classes.
    """
    levels = head.loss_options.get("levels")
    if isinstance(head, CoralHead):
        head.biases = mx.zeros_like(head.biases)
    elif isinstance(head, CumulativeLinkHead):
        steps = np.full(head.threshold_steps.shape, NO_STEP, np.float32)
        steps[0] = 0
        head.threshold_steps = mx.array(steps)
    elif residual is not None and levels:
        quantiles = np.array([NormalDist().inv_cdf(level) for level in levels]) * residual[:, None]
        steps = np.log(np.expm1(np.diff(quantiles)))
        bias = np.concatenate([quantiles[:, :1], steps], 1).ravel()
        head.output.bias = mx.array(bias.astype(np.float32))
    elif residual is not None and is_gaussian(head):
        bias = np.stack([np.zeros_like(residual), 2 * np.log(residual)], 1).ravel()
        head.output.bias = mx.array(bias.astype(np.float32))
    else:
        head.output.bias = mx.zeros_like(head.output.bias)


def is_gaussian(head: PooledHead) -> bool:
    """Whether the outputs are means and log variances."""
    return isinstance(head, GaussianHead) or getattr(head, "distribution", None) == "gaussian"


def spread_of(values: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Return the standard deviations (targets,) of the errors of the linear model."""
    errors = (values - linear).reshape(len(values), -1)
    return np.maximum(np.sqrt(np.square(errors).mean(0)), 1e-3)


def class_weights(config: RunConfig, competition: Competition, encoded: np.ndarray) -> np.ndarray:
    """Return the weights (N,) of rows: ones, or such that every class has the same sum."""
    if config.loss.class_weights == "none" or encoded.ndim == 2 or not competition.classes:
        return np.ones(len(encoded), np.float32)
    counts = np.bincount(encoded)
    present = np.count_nonzero(counts)
    return (len(encoded) / (present * counts[encoded])).astype(np.float32)


def loss_function(
    config: RunConfig, objective: Objective, head: PooledHead, targets: np.ndarray
) -> LossFunction:
    """Return `loss(model, batch) -> (sum of losses, sum of weights)`.

    `targets` are those of all training rows, for the weights of labels.
    """
    settings, options = config.loss, {}
    if objective.name == "cross_entropy":
        options["label_smoothing"] = settings.label_smoothing
        if settings.class_weights == "balanced" and objective.task == "multilabel":
            positive = np.clip(targets.mean(0), 1 / len(targets), None)
            options["pos_weight"] = mx.array((1 - positive) / positive)
    elif objective.name in ("focal", "huber"):
        name = {"focal": "gamma", "huber": "delta"}[objective.name]
        options[name] = getattr(settings, name)
    function = objective.loss_for(head, **options)

    def loss(model: nn.Module, batch: dict[str, mx.array]) -> Sums:
        inputs = {name: batch[name] for name in batch if name not in NO_INPUTS}
        outputs = model(**inputs)
        losses = function(outputs, batch["targets"])
        if settings.r_drop:
            again = model(**inputs)
            losses = (losses + function(again, batch["targets"])) / 2
            losses = losses + settings.r_drop * _disagreement(objective, outputs, again)
        return weighted_sum(losses, batch["weights"])

    return loss


def _disagreement(objective: Objective, outputs: mx.array, again: mx.array) -> mx.array:
    """Return the loss of R-Drop, (B,): of logits a divergence, of values the squared difference."""
    if objective.task in VALUE_TASKS or objective.name == "mse":
        return mx.square(outputs - again).reshape(len(outputs), -1).mean(1)
    ordered = objective.task == "ordinal" and objective.name != "cross_entropy"
    return r_drop_loss(outputs, again, multilabel=ordered or objective.task == "multilabel")


def predicted(head: PooledHead, outputs: mx.array, config: RunConfig) -> np.ndarray:
    """Return what the head predicts; of a distribution (N, targets, 3): median, lower, upper."""
    if is_gaussian(head):
        found = head.quantiles(outputs, quantile_levels(config))  # type: ignore[attr-defined]
    else:
        found = head.predict(outputs)
    found = np.array(found, np.float64)
    if is_gaussian(head) or head.loss_options.get("levels"):
        return found[..., [1, 0, 2]]
    return found
