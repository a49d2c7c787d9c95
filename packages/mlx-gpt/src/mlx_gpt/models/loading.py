"""A model and its tokenizer, loaded from one folder and checked to belong together."""

from pathlib import Path

import mlx.core as mx

from mlx_gpt.machine import default_dtype
from mlx_gpt.models.files import config_of, load_model, model_folder, tokenizer_hash
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer import Tokenizer


def load(
    folder: str | Path, dtype: mx.Dtype | None = None, training: bool = False
) -> tuple[Decoder, Tokenizer]:
    """Return the model and the tokenizer of a model or run folder.

    `dtype` is the machine's by default; it and `training` mean what they do in `load_model`. Raises
    `ValueError` where the tokenizer is not the model's; see `check_tokenizer`.
    """
    path = model_folder(folder)
    tokenizer = Tokenizer.load(path)
    check_tokenizer(tokenizer, str(path), config_of(path).vocab_size, tokenizer_hash(path))
    return load_model(path, dtype or default_dtype(), training), tokenizer


def check_tokenizer(
    tokenizer: Tokenizer, source: str, vocab_size: int, sha256: str | None = None
) -> None:
    """Raise `ValueError` unless a tokenizer is the one that the model of `source` learned with.

    A model saved without the hash is compared by the size of its vocabulary alone.
    """
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has {tokenizer.vocab_size:,} tokens and the model "
            f"{vocab_size:,}; they do not belong together"
        )
    if sha256 and tokenizer.sha256 != sha256:
        raise ValueError(
            f"{source}: the tokenizer (sha256 {tokenizer.sha256[:12]}) is not the one that the "
            f"model was trained with (sha256 {sha256[:12]}), though both have {vocab_size:,} "
            "tokens; put the model's own tokenizer.json back"
        )
