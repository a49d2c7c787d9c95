"""One optimizer update from one or several micro-batches, compiled, exact under accumulation.

Losses and gradients are added as sums and divided once by the total weight, over micro-batches and
processes alike. Averaging the means of unequal batches, the usual shortcut, weighs examples
unequally.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_map

from mlx_trainer import distributed
from mlx_trainer.norms import global_norm

logger = logging.getLogger(__name__)

Batch = Mapping[str, mx.array | np.ndarray]
LossFunction = Callable[[nn.Module, dict[str, mx.array]], tuple[mx.array, mx.array]]


class TrainingError(FloatingPointError):
    """The loss or the gradient is not finite; the weights in memory are no longer usable."""


class TrainStep:
    """The update of `model` by `optimizer`; call it with the micro-batches of one update.

    `loss_fn(model, batch)` returns (sum of losses, sum of weights), both scalars: a padded row or
    token adds 0 to both. `max_grad_norm=None` turns clipping off. With `compile`, a batch shape
    seen before costs no new trace; freezing, unfreezing, `train()` and `eval()` between updates are
    noticed. Only trainable parameters get gradients and optimizer state. Under `mlx.launch` sums
    and weights are added over all processes, so every process holds the same weights after every
    update.

    `optimizer` is any `mlx.optimizers.Optimizer` that reads its rate from `state["learning_rate"]`.
    `updates` counts the updates done; `weight` is the total weight of the last one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        max_grad_norm: float | None = 1.0,
        compile: bool = True,
    ):
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, got {max_grad_norm}")
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.max_grad_norm = max_grad_norm
        self.compile = compile
        self.updates = 0
        self.weight = 0.0
        self._structure: object = None

    def __call__(
        self, batches: Sequence[Batch], learning_rate: float | mx.array
    ) -> tuple[mx.array, mx.array]:
        """Do one update; return (mean loss, norm of the gradient before clipping), both evaluated.

        NumPy arrays in `batches` are converted. Raises `ValueError` when the total weight is 0, and
        `TrainingError` when loss or gradient are not finite: the weights are then spoilt, go back
        to a checkpoint.
        """
        if not batches:
            raise ValueError("an update needs at least one batch, got an empty list")
        arrays = [{name: _array(value) for name, value in batch.items()} for batch in batches]
        untried = self.prepare()
        self.optimizer.learning_rate = mx.array(learning_rate, mx.float32)
        if untried and self.compile:
            loss, weight, norm = self._update_or_give_up_compiling(arrays)
        else:
            loss, weight, norm = self._update(arrays)
        self._check(loss, weight, norm)
        self.updates += 1
        self.weight = float(weight)
        return loss, norm

    def prepare(self) -> bool:
        """Make optimizer state and functions for what is trained now; False if they were there.

        Updates call it; call it yourself only to see the optimizer's state before the first update.
        """
        trainable = self.model.trainable_parameters()
        modes = [module.training for _, module in self.model.named_modules()]
        structure = ([path for path, _ in tree_flatten(trainable)], modes)
        if structure == self._structure:
            return False
        if not structure[0]:
            raise ValueError("the model has no trainable parameter: everything is frozen")
        self.optimizer.init(trainable)
        self._structure = structure
        self._gradients = nn.value_and_grad(self.model, self._sums)
        self._apply = self._apply_sums
        # Lists read anew at every call, so that a replaced optimizer state is seen.
        self._forward_state: list[object] = []
        self._update_state: list[object] = []
        if self.compile:
            state = self._forward_state
            self._gradients = mx.compile(self._gradients, inputs=state, outputs=state)
            state = self._update_state
            self._apply = mx.compile(self._apply, inputs=state, outputs=state)
        return True

    def _update(self, batches: list[dict[str, mx.array]]) -> tuple[mx.array, mx.array, mx.array]:
        # The random state is an input and an output: dropout would else repeat its first mask.
        self._forward_state[:] = [self.model.state, mx.random.state]
        self._update_state[:] = [self.model.state, self.optimizer.state]
        (loss, weight), gradients = self._gradients(batches[0])
        for batch in batches[1:]:
            # Evaluated here: one lazy graph of all micro-batches would hold all their activations.
            mx.eval(loss, weight, gradients)
            (more_loss, more_weight), more = self._gradients(batch)
            loss, weight = loss + more_loss, weight + more_weight
            gradients = tree_map(_add, gradients, more)
        if distributed.world_size() > 1:
            # Means over processes serve as well as sums: their number cancels in sum / weight.
            loss, weight, gradients = nn.average_gradients((loss, weight, gradients))
        loss, norm = self._apply(loss, weight, gradients)
        mx.eval(self.model.state, self.optimizer.state, _random_state(), loss, weight, norm)
        return loss, weight, norm

    def _sums(self, batch: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
        sums = self.loss_fn(self.model, batch)
        if not isinstance(sums, tuple) or len(sums) != 2:
            raise TypeError(
                f"loss_fn must return (sum of losses, sum of weights), got {type(sums).__name__}"
            )
        loss, weight = (mx.array(each).astype(mx.float32) for each in sums)
        if loss.ndim or weight.ndim:
            raise ValueError(
                "loss_fn must return two scalars, (sum of losses, sum of weights), got shapes "
                f"{loss.shape} and {weight.shape}"
            )
        return loss, weight

    def _apply_sums(
        self, loss: mx.array, weight: mx.array, gradients: dict
    ) -> tuple[mx.array, mx.array]:
        gradients = tree_map(lambda g: g.astype(mx.float32) / weight, gradients)
        norm = global_norm(gradients)
        if self.max_grad_norm is not None:
            scale = mx.minimum(1.0, self.max_grad_norm / (norm + 1e-6))  # as PyTorch
            gradients = tree_map(lambda g: g * scale, gradients)
        # Optimizers that do not look at dtypes would turn half-precision parameters into float32.
        gradients = tree_map(
            lambda g, p: g.astype(p.dtype), gradients, self.model.trainable_parameters()
        )
        self.optimizer.update(self.model, gradients)
        return loss / weight, norm

    def _check(self, loss: mx.array, weight: mx.array, norm: mx.array) -> None:
        if float(weight) == 0:
            raise ValueError(
                f"update {self.updates}: the total weight of all micro-batches is 0, so there is "
                "no mean loss; leave out updates without a valid example"
            )
        if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
            raise TrainingError(
                f"update {self.updates}: loss {float(loss)}, gradient norm {float(norm)}; the "
                "weights are spoilt. Go back to a checkpoint, then lower the learning rate"
            )

    def _update_or_give_up_compiling(
        self, batches: list[dict[str, mx.array]]
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Update; where the CPU's compiler is broken, put the state back and go on uncompiled."""
        model = tree_map(lambda parameter: parameter, self.model.parameters())
        optimizer = tree_map(lambda moment: moment, self.optimizer.state)
        key = random_key()
        try:
            return self._update(batches)
        except RuntimeError as error:
            if "[Compile" not in str(error):
                raise
            logger.warning(
                "mx.compile does not work here, training goes on uncompiled (the whole process: "
                "layers of MLX compile too): %s",
                str(error)[:300],
            )
        mx.disable_compile()
        self.model.update(model)
        self.optimizer.state = optimizer
        set_random_key(key)
        return self._update(batches)


def random_key() -> tuple[int, int]:
    """Return the key of MLX's global random state, from which dropout draws."""
    high, low = np.array(_random_state())
    return int(high), int(low)


def set_random_key(key: tuple[int, int]) -> None:
    """Restore the key that `random_key` returned."""
    # The state takes no assignment, but a seed's two halves are the key.
    mx.random.seed((key[0] << 32) | key[1])


def _random_state() -> mx.array:
    return mx.random.state[0]  # type: ignore[index]


def _array(value: mx.array | np.ndarray) -> mx.array:
    return value if isinstance(value, mx.array) else mx.array(value)


def _add(total: mx.array, gradient: mx.array) -> mx.array:
    return total.astype(mx.float32) + gradient.astype(mx.float32)
