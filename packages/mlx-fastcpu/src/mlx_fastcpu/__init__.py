"""Make stock MLX fast on Linux CPUs: an optimized BLAS and LAPACK, and a larger buffer cache.

`activate()` redirects the BLAS imports of `libmlx.so` in the running process; it changes no file.
On other machines it does nothing and reports why.
"""

from typing import TYPE_CHECKING, Any

from mlx_fastcpu.activation import Status, activate, info

if TYPE_CHECKING:
    from mlx_fastcpu.patching import fast_ops, patch_nn, unpatch_nn

__all__ = ["Status", "activate", "fast_ops", "info", "patch_nn", "unpatch_nn"]


def __getattr__(name: str) -> Any:
    # Imported late: they need MLX, and `activate` must be able to report that it is missing.
    if name in ("fast_ops", "patch_nn", "unpatch_nn"):
        from mlx_fastcpu import patching

        return getattr(patching, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
