"""Put a trained adapter onto a model: a folder of PEFT, of mlx-lm, or of `mlx-gpt finetune`."""

from pathlib import Path

import mlx_lora
from mlx_gpt.models.formats import Decoder


def apply_adapter(model: Decoder, folder: str | Path) -> None:
    """Load the adapter of a folder into `model`, in place, and make it the active one.

    Raises `FileNotFoundError` if the folder has no adapter, `ValueError` if its tensors do not fit.
    """
    folder = Path(folder)
    if (folder / "adapter_model.safetensors").is_file():
        mlx_lora.load_adapter(model, folder)
    elif (folder / "adapters.safetensors").is_file():
        mlx_lora.load_mlx_lm_adapter(model, folder)
    else:
        raise FileNotFoundError(
            f"{folder} has no adapter: neither adapter_model.safetensors nor adapters.safetensors"
        )
