"""A collection of inputs, losses and gradients, as arrays for an .npz file."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

Arrays = Sequence[np.ndarray]


class Cases:
    """Arrays by name, and per case the loss, its options and what the reference is."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}
        self.descriptions: dict[str, dict] = {}

    def add(
        self,
        case: str,
        loss: str,
        reference: str,
        function: Callable[..., torch.Tensor],
        arrays: Arrays,
        differentiable: tuple[int, ...] = (0,),
        **options: object,
    ) -> None:
        """Keep the value of `function`, and the gradients of its sum for some of the arrays."""
        leaves = [
            torch.tensor(each.astype(np.float64) if each.dtype == np.float32 else each)
            for each in arrays
        ]
        for index in differentiable:
            leaves[index].requires_grad_()
        value = function(*leaves)
        assert value.isfinite().all(), case
        value.sum().backward()
        for index, array in enumerate(arrays):
            self.arrays[f"{case}.{index}"] = array
        for index in differentiable:
            gradient = leaves[index].grad
            assert gradient is not None
            assert gradient.isfinite().all(), case
            self.arrays[f"{case}.gradient{index}"] = gradient.numpy()
        self.arrays[f"{case}.losses"] = value.detach().numpy()
        self.descriptions[case] = {"loss": loss, "reference": reference, "options": options}


def rows(losses: torch.Tensor) -> torch.Tensor:
    """Return the mean over a row's elements."""
    return losses if losses.ndim == 1 else losses.mean(1)


def floats(values) -> np.ndarray:
    return np.asarray(values, np.float32)
