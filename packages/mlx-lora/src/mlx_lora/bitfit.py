"""BitFit (Ben Zaken et al. 2022): train the biases alone."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_lora.config import LoraConfig
from mlx_lora.targets import saved_modules


def bitfit(model: nn.Module, modules_to_save: Sequence[str] = ()) -> list[str]:
    """Freeze `model`, in place, but for its biases and the modules named; return their paths.

    Biases are parameters whose name is "bias"; `modules_to_save` are suffixes of paths, such as the
    head. Save them with the model. Raises `ValueError` for names that match nothing, and if there
    are no biases.
    """
    whole = saved_modules(model, LoraConfig(modules_to_save=tuple(modules_to_save)))
    modules = dict(model.named_modules())
    found = [path for path, module in modules.items() if isinstance(module.get("bias"), mx.array)]
    if not found:
        raise ValueError("the model has no parameter whose name is 'bias'")
    model.freeze()
    for path in found:
        modules[path].unfreeze(recurse=False, keys=["bias"])
    for path in whole:
        modules[path].unfreeze()
    return [*(f"{path}.bias".lstrip(".") for path in found), *whole]
