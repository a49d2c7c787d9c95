"""A model and its tokenizer, loaded from one folder and checked to belong together."""

from pathlib import Path

import mlx.core as mx

from mlx_gpt.machine import default_dtype
from mlx_gpt.models.files import load_model, model_folder
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer import Tokenizer


def load(
    folder: str | Path, dtype: mx.Dtype | None = None, training: bool = False
) -> tuple[Decoder, Tokenizer]:
    """Return the model and the tokenizer of a model or run folder.

    `dtype` is the machine's by default; it and `training` mean what they do in `load_model`. Raises
    `ValueError` where the tokenizer has tokens that the model does not know.
    """
    path = model_folder(folder)
    model = load_model(path, dtype or default_dtype(), training)
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens and the model "
            f"{model.config.vocab_size}; they do not belong together"
        )
    return model, tokenizer
