"""One file that a killed pretraining goes on from."""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_encoders._atomic import write_atomic

_WEIGHTS, _OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True)
class Checkpoint:
    """The weights, the optimizer's state and the number of updates in a safetensors file.

    `fingerprint` is that of the data and the settings.
    """

    path: Path
    fingerprint: str

    def save(
        self, model: nn.Module, optimizer: optim.Optimizer, step: int, loss_before: float
    ) -> None:
        """Replace the file atomically."""
        arrays: dict[str, Any] = {
            prefix + name: array
            for prefix, tree in ((_WEIGHTS, model.parameters()), (_OPTIMIZER, optimizer.state))
            for name, array in tree_flatten(tree)
        }
        metadata = {
            "step": str(step),
            "loss_before": json.dumps(loss_before),
            "fingerprint": self.fingerprint,
        }
        write_atomic(
            self.path, lambda path: mx.save_safetensors(str(path), arrays, metadata=metadata)
        )

    def load(self, model: nn.Module, optimizer: optim.Optimizer) -> tuple[int, float]:
        """Restore both; return the number of updates, and the held-out loss before them."""
        try:
            loaded: Any = mx.load(str(self.path), return_metadata=True)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.path} is damaged ({error}); delete it to start again"
            ) from error
        arrays, metadata = loaded
        if metadata.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{self.path} is of another model, other texts or other settings; "
                f"delete it to start again, or give what it was made with"
            )
        model.load_weights(list(_under(arrays, _WEIGHTS)))
        optimizer.state = tree_unflatten(list(_under(arrays, _OPTIMIZER)))
        return int(metadata["step"]), json.loads(metadata["loss_before"])


def fingerprint(rows: Iterable[np.ndarray], settings: str) -> str:
    """Return a checksum of token ids and settings."""
    checksum = zlib.crc32(settings.encode())
    for row in rows:
        checksum = zlib.crc32(row.tobytes(), checksum)
    return f"{checksum:08x}"


def _under(arrays: dict[str, mx.array], prefix: str) -> Iterable[tuple[str, mx.array]]:
    return (
        (name.removeprefix(prefix), array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    )
