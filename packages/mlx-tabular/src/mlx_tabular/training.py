"""Train TabM with early stopping on the score of the ensemble."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from mlx_tabular.model import TabM
from mlx_tabular.preprocess import Inputs

# Rows per call outside of training.
CHUNK = 1024
# More factors than one step takes, among which the place of a step's dropout is drawn.
SPARE = 1 << 20


@dataclass(frozen=True)
class Objective:
    """What is learned: of classes, or of values.

    `row_loss` takes outputs (B, k, d_out) and targets, and returns the loss of each row, the mean
    of its members'. `ensemble` makes predictions (B, d_out) of outputs. `score` takes predictions,
    targets and weights; lower is better.
    """

    row_loss: Callable[[mx.array, mx.array], mx.array]
    ensemble: Callable[[mx.array], mx.array]
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Rows:
    """Rows of a table: inputs, targets (float32 or int32), weights (N,)."""

    inputs: Inputs
    targets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Settings:
    """How to train; the estimators' docstring has the meanings."""

    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    batch_size: int
    max_epochs: int
    patience: int
    seed: int
    report: Callable[[dict[str, float]], object] | None


def train(
    model: TabM,
    rows: Rows,
    held_out: Rows | None,
    objective: Objective,
    settings: Settings,
) -> tuple[int, list[dict[str, float]]]:
    """Train in place; return the best epoch, whose weights the model has, and one dict an epoch.

    Without `held_out` rows all epochs run, and the last one counts. Batches have equal sizes of at
    most `batch_size`; the last one is filled with rows of weight 0.
    """
    rng = np.random.default_rng(settings.seed)
    step = Step(model, objective, settings)
    count = len(rows.targets)
    batches = math.ceil(count / settings.batch_size)
    size = math.ceil(count / batches)
    weights = rows.weights / rows.weights.mean()
    best, best_score, kept = 0, math.inf, dict(tree_flatten(model.parameters()))
    history: list[dict[str, float]] = []
    for epoch in range(1, settings.max_epochs + 1):
        order = rng.permutation(count)
        masks = DropoutMasks(model, size, rng)
        total = mx.array(0.0)
        for start in range(0, count, size):
            index = order[start : start + size]
            weight = np.zeros(size, np.float32)
            weight[: len(index)] = weights[index] / len(index)
            index = np.concatenate([index, np.zeros(size - len(index), np.int64)])
            loss = step(
                batch_of(rows.inputs, index),
                mx.array(rows.targets[index]),
                mx.array(weight),
                masks.draw(),
            )
            total = total + loss * min(size, count - start)
        facts = {"epoch": epoch, "train_loss": float(total) / count}
        if held_out is None:
            best = epoch
        else:
            predicted = predict(model, held_out.inputs, objective)
            facts["valid_score"] = objective.score(predicted, held_out.targets, held_out.weights)
            if facts["valid_score"] < best_score:
                best, best_score = epoch, facts["valid_score"]
                kept = dict(tree_flatten(model.parameters()))
        history.append(facts)
        if settings.report is not None:
            settings.report(dict(facts))
        if held_out is not None and epoch - best >= settings.patience:
            break
    if held_out is not None:
        model.load_weights([*kept.items()])
    model.eval()
    return best, history


def predict(model: TabM, inputs: Inputs, objective: Objective) -> np.ndarray:
    """Return the ensemble's predictions (N, d_out) in float64."""
    training = model.training
    model.eval()
    found = []
    for start in range(0, len(inputs.num), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(inputs.num)))
        outputs = objective.ensemble(model(*batch_of(inputs, index)))
        mx.eval(outputs)
        found.append(np.array(outputs, np.float64))
    model.train(training)
    return np.concatenate(found)


def batch_of(inputs: Inputs, index: np.ndarray) -> list[Any]:
    """Return the inputs of some rows; `None` for kinds of columns that the table lacks."""
    return [mx.array(each[index]) if each.shape[1] else None for each in inputs]


class DropoutMasks:
    """Dropout factors of one epoch; each step takes windows of one array at random places.

    Drawing a number for each hidden unit would take as long as all elementwise work of a step.
    """

    def __init__(self, model: TabM, rows: int, rng: np.random.Generator):
        self._shape = (model.k, rows, model.output.weight.shape[1])
        self._blocks = len(model.backbone.blocks)
        self._rng = rng
        if model.dropout:
            self._length = math.prod(self._shape)
            drawn = rng.random(self._length + SPARE, np.float32) >= model.dropout
            self._factors = mx.array(drawn.astype(np.float32) / np.float32(1 - model.dropout))
        else:
            self._length = 0

    def draw(self) -> list[mx.array] | None:
        """Return the factors (k, rows, d_block) of each block; `None` without dropout."""
        if not self._length:
            return None
        starts = self._rng.integers(0, SPARE, self._blocks)
        windows = [self._factors[each : each + self._length] for each in starts.tolist()]
        return [each.reshape(self._shape) for each in windows]


class Step:
    """One training step, with AdamW on all parameters as one vector.

    Not compiled: on a CPU MLX would first run the C++ compiler on 27 kernels, for 20 s.
    """

    def __init__(self, model: TabM, objective: Objective, settings: Settings):
        self._model = model.train()
        self._clip_norm = settings.clip_norm
        weights = dict(tree_flatten(model.trainable_parameters()))
        arrays = [*weights.values()]
        self._names = [*weights]
        self._shapes = [each.shape for each in arrays]
        self._ends = np.cumsum([each.size for each in arrays])[:-1].tolist()
        self._parameters = mx.concatenate([each.reshape(-1) for each in arrays])
        self._optimizer = optim.AdamW(
            settings.learning_rate, weight_decay=settings.weight_decay, bias_correction=True
        )

        def loss_of(inputs, targets, weights, masks):
            return (objective.row_loss(model(*inputs, masks=masks), targets) * weights).sum()

        self._gradients_of = nn.value_and_grad(model, loss_of)

    def __call__(
        self,
        inputs: list[mx.array | None],
        targets: mx.array,
        weights: mx.array,
        masks: list[mx.array] | None,
    ) -> mx.array:
        """Update the model; return the loss, the sum over rows of weight times loss."""
        batch = (inputs, targets, weights, masks)
        loss, tree = self._gradients_of(*batch)
        found = dict(tree_flatten(tree))
        gradient = mx.concatenate([found[name].reshape(-1) for name in self._names])
        if self._clip_norm is not None:
            norm = mx.sqrt(mx.square(gradient).sum())
            gradient = gradient * mx.minimum(self._clip_norm / (norm + 1e-6), 1)
        updated = self._optimizer.apply_gradients({"all": gradient}, {"all": self._parameters})
        self._parameters = updated["all"]
        parts = mx.split(self._parameters, self._ends)
        shaped = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        self._model.load_weights([*zip(self._names, shaped, strict=True)], strict=False)
        mx.async_eval(loss, self._parameters, self._optimizer.state)
        return loss
