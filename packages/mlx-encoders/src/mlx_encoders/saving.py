"""A model to a Hugging Face folder, each file written in one step."""

import json
from pathlib import Path

import mlx.core as mx

from mlx_encoders._atomic import write_atomic
from mlx_encoders.build import EncoderModel, named_parameters
from mlx_encoders.tokenizer import Tokenizer


def save(folder: str | Path, model: EncoderModel, tokenizer: Tokenizer | None = None) -> None:
    """Write `config.json` and `model.safetensors`, and the tokenizer's files if there is one.

    `load` and the `AutoModel` and `AutoTokenizer` of transformers read the folder. It is made if
    needed; files of the same names are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = named_parameters(model)
    write_atomic(
        folder / "model.safetensors",
        # transformers refuses a file that does not say which framework's layout it has.
        lambda path: mx.save_safetensors(str(path), weights, metadata={"format": "pt"}),
    )
    config = json.dumps(model.config.to_dict(), indent=2, sort_keys=True) + "\n"
    write_atomic(folder / "config.json", lambda path: path.write_text(config, encoding="utf-8"))
    if tokenizer is not None:
        tokenizer.save(folder)
