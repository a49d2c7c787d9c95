"""Find a model's folder, locally or on the Hugging Face hub, and read its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
import tokenizers

_NEEDED_FILES = [
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    # Of sentence-transformers: the list of modules, and those that have a folder of their own.
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "[0-9]_*/*.json",
    "[0-9]_*/*.safetensors",
    "[0-9]_*/vocab.txt",
]
_ADVICE = "copy or download the file again"

T = TypeVar("T")


def find_folder(name: str | Path, *, local_only: bool = False) -> Path:
    """Return the local folder `name`, or the folder of the downloaded hub repository `name`.

    Downloads only the files an encoder needs, to the cache of `huggingface_hub`; with `local_only`
    it looks only there. Raises `FileNotFoundError` when neither exists.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name, Path) or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no folder {str(name)!r}")
    from huggingface_hub import snapshot_download  # half of the package's import time

    try:
        return Path(
            snapshot_download(name, allow_patterns=_NEEDED_FILES, local_files_only=local_only)
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is not a local folder, and no hub repository of that id could be downloaded "
            f"or found in the local cache ({type(error).__name__}); check the spelling, the "
            f"network and, for private repositories, the login"
        ) from error


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file; raises `ValueError` with the path if it has none."""
    values = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(values).__name__}; {_ADVICE}")
    return values


def read_json_list(path: Path) -> list[object]:
    """Return the JSON list in a file; raises `ValueError` with the path if it has none."""
    values = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(values, list):
        raise ValueError(f"{path} must be a JSON list, got {type(values).__name__}; {_ADVICE}")
    return values


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Return the tensors of a safetensors file; raises `ValueError` with the path if damaged."""
    return _read(path, lambda: mx.load(str(path)))  # type: ignore[return-value]


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of a `tokenizer.json`; raises `ValueError` with the path if damaged."""
    return _read(path, lambda: tokenizers.Tokenizer.from_file(str(path)))


def _read(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError:  # its message has the path
        raise
    # MLX raises RuntimeError, json and text ValueError, and tokenizers Exception itself.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error).replace(str(path), "").split())
        raise ValueError(f"{path} is damaged or truncated ({reason}); {_ADVICE}") from error
