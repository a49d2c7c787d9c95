"""Make stock MLX fast on Linux CPUs: a real BLAS and LAPACK, and kept buffers.

`activate()` re-points the BLAS imports of the installed `libmlx.so` inside the running process;
no file is changed. Elsewhere it does nothing and says why.
"""

from typing import TYPE_CHECKING, Any

from mlx_fastcpu.activation import Status, activate, info

if TYPE_CHECKING:
    from mlx_fastcpu.patching import fast_ops, patch_nn, unpatch_nn

__all__ = ["Status", "activate", "fast_ops", "info", "patch_nn", "unpatch_nn"]


def __getattr__(name: str) -> Any:
    # These need MLX, and `activate` must be able to say that there is none.
    if name in ("fast_ops", "patch_nn", "unpatch_nn"):
        from mlx_fastcpu import patching

        return getattr(patching, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
