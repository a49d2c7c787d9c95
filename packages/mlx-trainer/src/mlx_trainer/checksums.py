"""Fingerprints of the input files of a run, and manifests of its output files.

Both map file names to SHA-256 checksums, so that an error can name the changed file.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlx_trainer._atomic import write_atomic

MANIFEST = "manifest.json"
# Larger inputs are sampled: only the size and some pieces of each file are hashed.
WHOLE_BELOW = 4 << 30
_PIECE, _PIECES = 1 << 20, 16
_FORMAT = 1


class ChangedFileError(ValueError):
    """A file is missing or differs from its checksum."""


def fingerprint(path: str | Path) -> dict[str, str]:
    """Return the checksum of the file at `path`, or of each file in that folder by relative name.

    Hidden files are skipped. Inputs above 4 GiB are sampled: the size of each file and 16 pieces of
    1 MiB. Raises `FileNotFoundError` if `path` does not exist.
    """
    path = Path(path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [each for each in sorted(path.rglob("*")) if each.is_file()]
        files = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    else:
        raise FileNotFoundError(f"{path}: no such file or folder")
    whole = sum(each.stat().st_size for each in files) <= WHOLE_BELOW
    return {
        each.relative_to(path).as_posix(): _whole(each) if whole else _sampled(each)
        for each in files
    }


def changed_file(path: str | Path, before: Mapping[str, str]) -> Path | None:
    """Return the first file at `path` whose fingerprint differs from `before`, or None."""
    now = fingerprint(path)
    names = sorted(before.keys() | now.keys())
    other = [name for name in names if before.get(name) != now.get(name)]
    return Path(path) / other[0] if other else None


def write_manifest(folder: str | Path, files: Iterable[str]) -> None:
    """Write `manifest.json`: the SHA-256 of `files`, which are paths below `folder`.

    Write it last: it proves that all files were written.
    """
    folder = Path(folder)
    sums = {name: _whole(folder / name) for name in sorted(files)}
    text = json.dumps({"format": _FORMAT, "sha256": sums}, indent=1) + "\n"
    write_atomic(folder / MANIFEST, lambda path: path.write_text(text, "utf-8"))


def check_manifest(folder: str | Path, required: Iterable[str] = ()) -> None:
    """Raise `ChangedFileError` unless every file of the manifest has its checksum.

    The manifest must list the `required` files. Raises `FileNotFoundError` without a manifest.
    """
    path = Path(folder) / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
        sums = {str(name): str(value) for name, value in values["sha256"].items()}
        if values["format"] != _FORMAT:
            raise ValueError(f"its format is {values['format']}, not {_FORMAT}")
        if absent := sorted(set(required) - sums.keys()):
            raise ValueError(f"it does not list {absent[0]}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChangedFileError(f"{path} is damaged: {error}") from None
    for name, checksum in sums.items():
        file = path.parent / name
        if not file.is_file():
            raise ChangedFileError(f"{file} is missing; it is listed in {path}")
        if _whole(file) != checksum:
            raise ChangedFileError(
                f"{file} is damaged or was changed: its SHA-256 is not the one in {path.name}"
            )


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_PIECES):
            file.seek(max(0, size - _PIECE) * number // (_PIECES - 1), os.SEEK_SET)
            digest.update(file.read(_PIECE))
    return f"sampled-{digest.hexdigest()}"
