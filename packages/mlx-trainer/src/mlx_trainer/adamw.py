"""AdamW (Loshchilov and Hutter 2019, algorithm 2, as in PyTorch) with parameter groups."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_map_with_path

# The largest power of 2 whose square does not overflow float32.
LARGEST = 2.0**63


@dataclass(frozen=True)
class Group:
    """The options of one parameter: multiplier of the learning rate, and whether it decays."""

    rate: float = 1.0
    decay: bool = True


Groups = Callable[[str, mx.array], Group]


def decay_matrices(path: str, parameter: mx.array) -> Group:
    """Decay parameters with two or more axes: not biases and norms. The default grouping."""
    return Group(decay=parameter.ndim >= 2)


def layer_decay(depth_of: Callable[[str], int], depth: int, decay: float) -> Groups:
    """Return a grouping whose rate falls by `decay` for each layer further from the output.

    `depth_of(path)` is 0 for the embeddings and `depth` for the head; the multiplier is
    `decay ** (depth - depth_of(path))` (Howard and Ruder 2018, section 3.1, with their 1/2.6 as
    `decay`). Only matrices decay.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay: decay must be in (0, 1], got {decay}")

    def group(path: str, parameter: mx.array) -> Group:
        level = depth_of(path)
        if not 0 <= level <= depth:
            raise ValueError(
                f"layer_decay: depth_of({path!r}) must be between 0 and depth={depth}, got {level}"
            )
        return Group(rate=decay ** (depth - level), decay=decay_matrices(path, parameter).decay)

    return group


class AdamW(Optimizer):
    """AdamW with decoupled decay, bias correction and float32 moments for any parameter dtype.

    The learning rate is not an argument: `TrainStep` sets `learning_rate` for every update, as an
    array, so that a compiled step is never retraced. Decay is `rate * weight_decay * parameter`,
    with the rate of the parameter's group. The state takes 8 bytes per parameter. Finite gradients
    beyond 2^63, whose squares overflow float32, are clipped to 2^63; in the second moment they
    decay by `betas[1]` per update. Infinities and NaN are not clipped.
    """

    def __init__(
        self,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        groups: Groups | None = None,
    ):
        super().__init__()
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas must be in [0, 1), got {betas}")
        if eps < 0 or weight_decay < 0:
            raise ValueError(
                f"AdamW: eps and weight_decay must not be negative, got {eps} and {weight_decay}"
            )
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self._grouping = groups or decay_matrices
        self._groups: dict[str, Group] = {}
        self.learning_rate = 0.0

    def init(self, parameters: dict) -> None:
        """Create moments and look up the group of each parameter; existing moments are kept."""
        super().init(parameters)
        for path, parameter in tree_flatten(parameters):
            self._groups[path] = self._grouping(path, parameter)  # type: ignore[arg-type]

    def init_single(self, parameter: mx.array, state: dict) -> None:
        """Start both moments of one parameter at zero."""
        state["m"] = mx.zeros(parameter.shape, mx.float32)
        state["v"] = mx.zeros(parameter.shape, mx.float32)

    def apply_gradients(self, gradients: dict, parameters: dict) -> dict:
        """Return the updated parameters, in the structure of `gradients`."""
        if not self._initialized:
            self.init(gradients)
        self.state["step"] = self.step + 1
        first, second = (_bias_correction(beta, self.step) for beta in self.betas)
        # Prevents mx.compile from fusing these scalars into the loop over the elements of a
        # parameter: on the CPU it would call expm1 twice per element.
        update = partial(self._apply, mx.contiguous(first), mx.contiguous(mx.sqrt(second)))
        return tree_map_with_path(update, gradients, parameters, self.state)

    def _apply(
        self,
        first_correction: mx.array,
        second_correction: mx.array,
        path: str,
        gradient: mx.array,
        parameter: mx.array,
        state: dict,
    ) -> mx.array:
        group = self._groups[path]
        rate = self.learning_rate.astype(mx.float32) * group.rate
        gradient = gradient.astype(mx.float32)
        capped = mx.clip(gradient, -LARGEST, LARGEST)
        gradient = mx.where(mx.isfinite(gradient), capped, gradient)
        weight = parameter.astype(mx.float32)
        beta1, beta2 = self.betas
        state["m"] = beta1 * state["m"] + (1 - beta1) * gradient
        state["v"] = beta2 * state["v"] + (1 - beta2) * mx.square(gradient)
        deviation = mx.sqrt(state["v"]) / second_correction
        if group.decay and self.weight_decay:
            weight = weight * (1 - rate * self.weight_decay)
        weight = weight - rate / first_correction * (state["m"] / (deviation + self.eps))
        return weight.astype(parameter.dtype)


def _bias_correction(beta: float, step: mx.array) -> mx.array:
    """Return 1 - beta ** step, by expm1: in float32 1 - 0.999 has an error of 6e-5."""
    if beta == 0:
        return mx.array(1.0)
    return -mx.expm1(step.astype(mx.float32) * math.log(beta))
