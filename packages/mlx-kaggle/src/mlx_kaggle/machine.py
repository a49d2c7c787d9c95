"""The machine as `mlx-kaggle info` shows it, and its activation for the other commands."""

import os
import platform
from importlib.metadata import version
from typing import Any

PACKAGES = (
    "mlx",
    "mlx-kaggle",
    "mlx-tabtext",
    "mlx-encoders",
    "mlx-heads",
    "mlx-trainer",
    "mlx-fastcpu",
    "numpy",
    "scikit-learn",
    "tokenizers",
)
# Enough to reuse every buffer of a step, little enough that the whole run stays under 4 GB.
CACHE_LIMIT = 1 << 30


def prepare_machine() -> str:
    """Make MLX fast on a Linux CPU (a no-op elsewhere); return what was done, in one line."""
    import mlx_fastcpu

    return str(mlx_fastcpu.activate(cache_limit=CACHE_LIMIT))


def machine_info() -> dict[str, Any]:
    """Versions, device, BLAS, presets and metrics."""
    fast = prepare_machine()
    import mlx.core as mx

    from mlx_heads import METRICS
    from mlx_kaggle.config import PRESETS

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": str(mx.default_device()),
        "fastcpu": fast,
        "packages": {name: version(name) for name in PACKAGES},
        "presets": dict(PRESETS),
        "metrics": ", ".join(METRICS),
    }
