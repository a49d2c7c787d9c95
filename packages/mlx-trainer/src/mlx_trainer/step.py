"""One optimizer update from one or several micro-batches, compiled, exact under accumulation.

Losses and gradients are summed over micro-batches, threads and processes, and divided once by the
total weight. Averaging the means of unequal batches, the usual shortcut, gives examples unequal
weights.
"""

import logging
import math
from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_map

from mlx_trainer import distributed
from mlx_trainer.gradients import (
    LossFunction,
    Sums,
    accumulate,
    global_norm,
    gradient_function,
    total,
)
from mlx_trainer.random_keys import random_key, random_state, set_random_key
from mlx_trainer.threads import GradientThreads, check_threads

logger = logging.getLogger(__name__)

Batch = Mapping[str, mx.array | np.ndarray]


class TrainingError(FloatingPointError):
    """The loss or the gradient is not finite; the weights in memory are unusable."""


class TrainStep:
    """The update of `model` by `optimizer`; call it with the micro-batches of one update.

    `loss_fn(model, batch)` returns (sum of losses, sum of weights), both scalars: a padded row or
    token adds 0 to both. `max_grad_norm=None` disables clipping. With `compile`, each batch shape
    is traced once; freezing, unfreezing, `train()` and `eval()` between updates are detected. Only
    trainable parameters get gradients and optimizer state. Under `mlx.launch` sums and weights are
    added over all processes, so every process has the same weights after every update.

    With `threads` above 1, for the CPU, each thread computes its share of the rows of every
    micro-batch. The update is the same up to rounding, and faster if the BLAS uses one thread. Each
    thread has its own dropout; only the running statistics of the first thread are kept. Arrays
    that `loss_fn` uses besides the model's and the batch's must be evaluated beforehand.

    `optimizer` is any `mlx.optimizers.Optimizer` that reads its rate from `state["learning_rate"]`.
    If it has a method `recognize`, that is called with the model.
    `updates` counts the completed updates; `weight` is the total weight of the last one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        max_grad_norm: float | None = 1.0,
        compile: bool = True,
        threads: int = 1,
    ):
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, got {max_grad_norm}")
        check_threads(threads)
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.max_grad_norm = max_grad_norm
        self.compile = compile
        self.threads = threads
        self.updates = 0
        self.weight = 0.0
        self._structure: object = None
        self._threads: GradientThreads | None = None

    def __call__(
        self, batches: Sequence[Batch], learning_rate: float | mx.array
    ) -> tuple[mx.array, mx.array]:
        """Do one update; return (mean loss, norm of the gradient before clipping), both evaluated.

        NumPy arrays in `batches` are converted. Raises `ValueError` for a total weight of 0, and
        `TrainingError` for a loss or gradient that is not finite: the weights are then unusable,
        load a checkpoint.
        """
        if not batches:
            raise ValueError("an update needs at least one batch, got an empty list")
        arrays = [{name: _array(value) for name, value in batch.items()} for batch in batches]
        untried = self.prepare()
        self.optimizer.learning_rate = mx.array(learning_rate, mx.float32)
        if untried and self.compile:
            loss, weight, norm = self._update_or_disable_compile(arrays)
        else:
            loss, weight, norm = self._update(arrays)
        self._check(loss, weight, norm)
        self.updates += 1
        self.weight = float(weight)
        return loss, norm

    def prepare(self) -> bool:
        """Create optimizer state and functions for the trainable parameters; False if unchanged.

        Updates call it; call it to access the optimizer's state before the first update.
        """
        trainable = self.model.trainable_parameters()
        modes = [module.training for _, module in self.model.named_modules()]
        structure = ([path for path, _ in tree_flatten(trainable)], modes)
        if structure == self._structure:
            return False
        if not structure[0]:
            raise ValueError("the model has no trainable parameter: everything is frozen")
        if hasattr(self.optimizer, "recognize"):
            # Before the state is created: a resumed run must get the same state as a new one.
            self.optimizer.recognize(self.model)  # type: ignore[attr-defined]
        self.optimizer.init(trainable)
        arguments = self.model, self.loss_fn, self.compile
        if self.threads > 1:
            self.close()
            self._threads = GradientThreads(*arguments, self.threads)
        else:
            self._gradients = gradient_function(*arguments)
        self._apply = self._apply_sums
        # Every call refills this list, so that a replaced optimizer state is used.
        self._update_state: list[object] = []
        if self.compile:
            state = self._update_state
            self._apply = mx.compile(self._apply, inputs=state, outputs=state)
        self._structure = structure
        return True

    def close(self) -> None:
        """End the threads; another update starts new ones."""
        if self._threads:
            self._threads.close()
            self._threads = self._structure = None

    def _update(self, batches: list[dict[str, mx.array]]) -> tuple[mx.array, mx.array, mx.array]:
        self._update_state[:] = [self.model.state, self.optimizer.state]
        sums = self._threads(batches) if self._threads else [accumulate(self._gradients, batches)]
        if distributed.world_size() > 1:
            # Means over processes replace sums: the number of processes cancels in sum / weight.
            sums = [nn.average_gradients(total(sums))]
        # Evaluated apart and released, gradients end before the optimizer needs its own memory: in
        # one graph a step of AdamW with checkpointed layers took 6.8 instead of 5.8 times the bytes
        # of the parameters.
        mx.eval(sums)
        loss, weight, norm = self._apply(sums)
        del sums
        mx.eval(self.model.state, self.optimizer.state, random_state(), loss, weight, norm)
        return loss, weight, norm

    def _apply_sums(self, sums: list[Sums]) -> tuple[mx.array, mx.array, mx.array]:
        # Adding gradients of several threads here, compiled, saves a pass over memory.
        loss, weight, gradients = total(sums)
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
        return loss / weight, weight, norm

    def _check(self, loss: mx.array, weight: mx.array, norm: mx.array) -> None:
        if float(weight) == 0:
            raise ValueError(
                f"update {self.updates + 1}: the total weight of all micro-batches is 0, so there "
                "is no mean loss; skip updates without a valid example"
            )
        if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
            raise TrainingError(
                f"update {self.updates + 1}: loss {float(loss)}, gradient norm {float(norm)}; "
                "the weights are unusable. Load a checkpoint, then lower the learning rate"
            )

    def _update_or_disable_compile(
        self, batches: list[dict[str, mx.array]]
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Update; if the CPU's compiler is broken, restore the state and continue uncompiled."""
        model = tree_map(lambda parameter: parameter, self.model.parameters())
        optimizer = tree_map(lambda moment: moment, self.optimizer.state)
        key = random_key()
        try:
            return self._update(batches)
        except RuntimeError as error:
            if "[Compile" not in str(error):
                raise
            logger.warning(
                "mx.compile does not work here, training continues uncompiled (the whole process: "
                "layers of MLX compile too): %s",
                str(error)[:300],
            )
        mx.disable_compile()
        self.model.update(model)
        self.optimizer.state = optimizer
        set_random_key(key)
        return self._update(batches)


def _array(value: mx.array | np.ndarray) -> mx.array:
    return value if isinstance(value, mx.array) else mx.array(value)
