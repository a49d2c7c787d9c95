"""Read the files of a model's folder; a damaged one is one error that names it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
import tokenizers

T = TypeVar("T")


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file; `ValueError` with the path where there is none."""
    values = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}; {_ADVICE}")
    return values


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Return the tensors of a safetensors file; `ValueError` with the path where it is damaged."""
    return _read(path, lambda: mx.load(str(path)))  # type: ignore[return-value]


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer in a `tokenizer.json`; `ValueError` with the path if it is damaged."""
    return _read(path, lambda: tokenizers.Tokenizer.from_file(str(path)))


_ADVICE = "copy or download the file again"


def _read(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError:  # names the path itself
        raise
    # MLX raises RuntimeError, json and text ValueError, and tokenizers Exception itself.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        said = " ".join(str(error).replace(str(path), "").split())
        raise ValueError(f"{path} is damaged or cut short ({said}); {_ADVICE}") from error
