"""From the last layer of a head to its prediction, as a graph: the outputs of every task."""

from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import mlx.core as mx
import numpy as np
from scipy.special import logit

from mlx_encoders.export import Operations, Value
from mlx_heads import (
    ClassificationHead,
    CoralHead,
    CornHead,
    CumulativeLinkHead,
    GaussianHead,
    MultilabelHead,
    PooledHead,
    QuantileHead,
    RegressionHead,
)
from mlx_kaggle import RunError
from mlx_kaggle.members.objective import MARGIN, quantile_levels
from mlx_kaggle.settings.config import RunConfig

# The logit of 1 - MARGIN, to which the linear model of ordered classes is clipped.
LIMIT = float(logit(1 - MARGIN))

Finish = Callable[[Operations, Value, Value | None], Value]


def finish_of(head: PooledHead, config: RunConfig) -> Finish:
    """Return the function from the last layer and the outputs of the linear model on."""
    if isinstance(head, CumulativeLinkHead) and head.link == "probit":
        raise RunError(
            "the loss cumulative_probit has no graph, because no format has the inverse of the "
            "normal distribution; train with loss.name=cumulative_logit"
        )
    if isinstance(head, CoralHead | CornHead | CumulativeLinkHead):
        return lambda ops, raw, linear: _ordered(ops, head, raw, linear)
    if isinstance(head, GaussianHead | QuantileHead):
        return lambda ops, raw, linear: _intervals(ops, head, config, raw, linear)
    if isinstance(head, ClassificationHead):
        return lambda ops, raw, linear: _classes(ops, head, _plus(ops, raw, linear))
    if isinstance(head, MultilabelHead):
        return lambda ops, raw, linear: ops.activation("sigmoid", _plus(ops, raw, linear))
    if type(head).outputs_of is PooledHead.outputs_of and isinstance(head, RegressionHead):
        return _plus
    raise RunError(f"a {type(head).__name__} has no graph here; choose another loss.name")


def _classes(ops: Operations, head: ClassificationHead, logits: Value) -> Value:
    if head.num_classes > 2:
        return ops.softmax(logits)
    both = [ops.multiply(logits, ops.constant(-1.0)), logits]
    return ops.activation("sigmoid", ops.concatenate(both))


def _intervals(
    ops: Operations, head: Any, config: RunConfig, raw: Value, linear: Value | None
) -> Value:
    """Return value, lower and upper of each target."""
    columns, found = _columns(ops, raw, head.num_outputs), []
    added = _columns(ops, linear, head.num_targets) if linear is not None else None
    each = head.num_outputs // head.num_targets
    deviations = [NormalDist().inv_cdf(level) for level in quantile_levels(config)]
    for target in range(head.num_targets):
        mine = columns[each * target : each * (target + 1)]
        if isinstance(head, GaussianHead):
            spread = ops.activation("exp", ops.multiply(mine[1], ops.constant(0.5)))
            bounds = [ops.add(mine[0], ops.multiply(spread, ops.constant(z))) for z in deviations]
        else:
            bounds = [mine[0]]
            for step in mine[1:]:
                bounds.append(ops.add(bounds[-1], ops.activation("softplus", step)))
        if added:
            bounds = [ops.add(bound, added[target]) for bound in bounds]
        found += [bounds[1], bounds[0], bounds[2]]
    return ops.concatenate(found)


def _ordered(ops: Operations, head: Any, raw: Value, linear: Value | None) -> Value:
    """Return the probabilities of ordered classes."""
    steps = head.num_classes - 1
    if isinstance(head, CoralHead):
        raw = ops.add(raw, ops.weight("head.biases"))
    elif isinstance(head, CumulativeLinkHead):
        zeros = mx.zeros((1, 1))  # outputs_of subtracts the thresholds from a score
        raw = ops.add(raw, ops.vector(np.array(head.outputs_of(zeros), np.float32)))
    link = "corn" if isinstance(head, CornHead) else getattr(head, "link", "logit")
    logits = _columns(ops, raw, steps)
    if linear is not None:
        known = _link(ops, _columns(ops, linear, steps), link)
        logits = [ops.add(a, b) for a, b in zip(logits, known, strict=True)]
    above = _exceedance(ops, logits, link)
    one, zero = ops.constant(1.0), ops.constant(0.0)
    shares = [ops.subtract(one, above[0])]
    shares += [ops.maximum(ops.subtract(a, b), zero) for a, b in pairwise(above)]
    return ops.concatenate([*shares, above[-1]])


def _link(ops: Operations, logits: list[Value], link: str) -> list[Value]:
    """Return `link_logits` of the columns of the linear model, which are logits of y > k."""
    logits = [_clip(ops, each, -LIMIT, LIMIT) for each in logits]
    if link == "cloglog":  # -log(1 - sigmoid(x)) is softplus(x)
        return [ops.activation("log", ops.activation("softplus", each)) for each in logits]
    if link != "corn":
        return logits
    above = [ops.activation("sigmoid", each) for each in logits]
    found = [logits[0]]
    for before, after in pairwise(above):
        kept = _clip(ops, ops.divide(after, before), MARGIN, 1 - MARGIN)
        left = ops.subtract(ops.constant(1.0), kept)
        found.append(ops.activation("log", ops.divide(kept, left)))
    return found


def _exceedance(ops: Operations, logits: list[Value], link: str) -> list[Value]:
    """Return P(y > k) for each k, decreasing."""
    found: list[Value] = []
    for each in logits:
        if link == "corn":
            chance = ops.activation("sigmoid", each)
            found.append(ops.multiply(found[-1], chance) if found else chance)
            continue
        if link == "cloglog":
            hazard = ops.multiply(ops.activation("exp", each), ops.constant(-1.0))
            chance = ops.subtract(ops.constant(1.0), ops.activation("exp", hazard))
        else:
            chance = ops.activation("sigmoid", each)
        found.append(_minimum(ops, found[-1], chance) if found else chance)
    return found


def _clip(ops: Operations, x: Value, lowest: float, highest: float) -> Value:
    return _minimum(ops, ops.maximum(x, ops.constant(lowest)), ops.constant(highest))


def _minimum(ops: Operations, a: Value, b: Value) -> Value:
    minus = ops.constant(-1.0)
    return ops.multiply(ops.maximum(ops.multiply(a, minus), ops.multiply(b, minus)), minus)


def _columns(ops: Operations, x: Value, count: int) -> list[Value]:
    return [x] if count == 1 else ops.split(x, [1] * count)


def _plus(ops: Operations, raw: Value, linear: Value | None) -> Value:
    return raw if linear is None else ops.add(raw, linear)
