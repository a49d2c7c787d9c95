"""The machine as `mlx-kaggle info` shows it, and its activation for the other commands."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

PACKAGES = (
    "mlx",
    "mlx-kaggle",
    "mlx-tabtext",
    "mlx-encoders",
    "mlx-heads",
    "mlx-muon",
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

    status = mlx_fastcpu.activate(cache_limit=CACHE_LIMIT, compiler_flags="native")
    _blas_threads()
    return str(status)


@contextmanager
def sharing_cores(threads: int) -> Iterator[None]:
    """While this many threads of ours compute, BLAS uses its share of the cores in each."""
    import mlx_fastcpu

    all_threads, before = _blas_threads(), mlx_fastcpu.activate().threads
    if all_threads is None or before is None:  # on a GPU or a Mac there is nothing to share
        yield
        return
    mlx_fastcpu.activate(threads=max(1, all_threads // threads))
    try:
        yield
    finally:
        mlx_fastcpu.activate(threads=before)


@cache
def _blas_threads() -> int | None:
    """Threads of the BLAS before anything here changed them, `None` where we have no BLAS."""
    import mlx_fastcpu

    return mlx_fastcpu.activate().threads


def step_threads(wanted: int) -> int:
    """Threads for one training step: those wanted on a CPU, one elsewhere."""
    import mlx.core as mx

    return wanted if mx.default_device() == mx.cpu and hasattr(mx, "clear_streams") else 1


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
