"""Soups: the mean of the weights of a network after several epochs (Wortsman et al. 2022).

One network to predict with, as fast as the last one. `uniform` is the mean of the last epochs;
`greedy` adds the epochs from the best on while the score of held-out training rows does not fall.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_trainer import write_atomic

FILES = "soup-epoch-[0-9]*.safetensors"


class Soup:
    """The trained weights after each epoch, in files, so that a killed run can go on."""

    def __init__(self, folder: Path, model: nn.Module):
        self.folder = folder
        self.model = model

    def keep(self, epoch: int) -> None:
        """Save the trained weights after `epoch`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        weights: dict[str, mx.array] = dict(tree_flatten(self.model.trainable_parameters()))
        write_atomic(self._file(epoch), lambda path: mx.save_safetensors(str(path), weights))

    def mix(self, epochs: Sequence[int]) -> None:
        """Give the model the mean of the weights after these epochs."""
        total: dict[str, mx.array] = {}
        for epoch in epochs:
            found = mx.load(str(self._file(epoch)))
            assert isinstance(found, dict)
            total = {name: total.get(name, 0) + each for name, each in found.items()}
            mx.eval(total)
        weights = [(name, each / len(epochs)) for name, each in total.items()]
        self.model.load_weights(weights, strict=False)
        mx.eval(self.model.parameters())

    def mix_greedily(
        self, scores: Sequence[float], greater_is_better: bool, score: Callable[[], float]
    ) -> list[int]:
        """Mix the epochs that help, and return them; `scores` are of the epochs one by one."""
        sign = 1 if greater_is_better else -1
        order = sorted(range(len(scores)), key=lambda epoch: -sign * scores[epoch])
        chosen, best = order[:1], sign * scores[order[0]]
        for epoch in order[1:]:
            self.mix([*chosen, epoch])
            found = sign * score()
            if found >= best:
                chosen, best = [*chosen, epoch], found
        self.mix(chosen)
        return sorted(chosen)

    def delete(self) -> None:
        """Delete the files."""
        for path in self.folder.glob(FILES):
            path.unlink()

    def _file(self, epoch: int) -> Path:
        return self.folder / f"soup-epoch-{epoch}.safetensors"
