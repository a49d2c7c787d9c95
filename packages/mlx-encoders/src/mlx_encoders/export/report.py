"""What an export wrote, and what was measured on it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Int8Report:
    """The file with 8-bit weights beside the float32 one, on the same inputs.

    These are the texts, or random ids without texts, on which a cosine says little.
    """

    path: Path
    size: int
    """Bytes."""
    max_difference: float
    """Largest absolute difference to the outputs of the float32 file."""
    cosine: float
    """Mean cosine similarity of the output vectors to those of the float32 file."""
    accuracy: float | None = None
    """With labels: the share of right predictions."""


@dataclass(frozen=True)
class ExportReport:
    """The file that was written, and how it compares with the MLX model."""

    path: Path
    size: int
    """Bytes, with those of external data."""
    max_difference: float
    """Largest absolute difference to the outputs of MLX, over all inputs that were compared."""
    accuracy: float | None = None
    """With labels: the share of right predictions."""
    int8: Int8Report | None = None


@dataclass(frozen=True)
class CoreMLReport:
    """The package that was written; Core ML has not run it."""

    path: Path
    size: int
    """Bytes."""
    max_difference: float
    """Largest absolute difference to MLX of coremltools' constant evaluation of the program."""


def file_size(path: Path) -> int:
    """Return the bytes of a file or folder; those of external data, `<name>.data`, included."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(each.stat().st_size for each in files if each.is_file())
