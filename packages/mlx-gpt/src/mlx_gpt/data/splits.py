"""Find the files of a data folder: train, valid and test, in any format of `rows`."""

from collections.abc import Sequence
from pathlib import Path

_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".txt")


def find_splits(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by split: `train`, and `valid` and `test` if it has them.

    `validation` and `val` are other names of `valid`. Raises `FileNotFoundError` without a training
    file, `ValueError` if two files are the same split.
    """
    found: dict[str, Path] = {}
    for name, split in _NAMES.items():
        for suffix in _SUFFIXES:
            path = folder / f"{name}{suffix}"
            if not path.is_file():
                continue
            if split in found:
                raise ValueError(f"{folder}: both {found[split].name} and {path.name} exist")
            found[split] = path
    if "train" not in found:
        raise FileNotFoundError(
            f"{folder} has no train file: expected train.jsonl, train.json, train.csv or "
            "train.parquet"
        )
    return found


def find_files(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Return files by split: those of a folder, else each given file under its own name."""
    if len(paths) == 1 and paths[0].is_dir():
        return {split: [path] for split, path in find_splits(paths[0]).items()}
    return {str(path): [path] for path in paths}
