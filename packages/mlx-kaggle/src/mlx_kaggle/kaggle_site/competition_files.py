"""Download the files of a competition: complete and checked, or not at all."""

import filecmp
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mlx_kaggle.kaggle_site.api import Kaggle, KaggleError
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.competition import list_names
from mlx_kaggle.tables.files import find_companion_files
from mlx_tabtext import TABLE_ENDINGS


@dataclass(frozen=True)
class Download:
    """The files of a competition in a folder, those that were written, and what to say."""

    folder: Path
    files: dict[str, int]
    """Bytes of each."""
    written: list[str]
    notes: list[str]


def download(
    kaggle: Kaggle, competition: str, output: Path, name: str | None = None, overwrite: bool = False
) -> Download:
    """Download all files, or the one of this name, unpack them and move them to `output`.

    A file that is already there and equal stays; one that differs is an error unless `overwrite`.
    Raises `KaggleError`, and changes nothing, if the archive is damaged, has a member outside of
    the folder, or a file whose size is not that of Kaggle's list.
    """
    _check_inside(name or "", "--file")
    listed, complete = kaggle.files(competition)
    if name and complete and name not in [each["name"] for each in listed]:
        names = list_names([each["name"] for each in listed])
        raise KaggleError(f"{competition} has no file {name!r}; its files: {names}")
    _check_folder(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.resolve().parent  # the same file system
    with tempfile.TemporaryDirectory(prefix=".download-", dir=beside) as temporary:
        packed, folder = Path(temporary, "packed"), Path(temporary, "files")
        packed.mkdir()
        folder.mkdir()
        came = kaggle.fetch(competition, name, packed)
        if name is None or came.name == f"{PurePosixPath(name).name}.zip":
            inside = folder if name is None else folder / PurePosixPath(name).parent
            _unpack(came, inside)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            came.rename(folder / name)
        files = _sizes(folder)
        wanted = [each for each in listed if name in (None, each["name"])]
        notes = _check_sizes(files, wanted, complete, competition)
        written = _move(folder, output, files, overwrite)
    return Download(output, files, written, notes)


def plan_download(
    competition: str, output: Path, name: str | None, overwrite: bool
) -> tuple[list[str], dict[str, Any]]:
    """Return what `download` would do, without asking Kaggle, and the files that are there."""
    _check_inside(name or "", "--file")
    _check_folder(output)
    there = _sizes(output) if output.is_dir() else {}
    there = there if name is None else {name: there[name]} if name in there else {}
    what = f"the file {name}" if name else "all files"
    would = [f"ask Kaggle for {what} of {competition}, and write new ones to {output}"]
    if there:
        differ = "replaced" if overwrite else "an error, and nothing would be written"
        would.append(f"leave equal ones of the {len(there)} files there ({sum(there.values()):,} "
                     f"bytes); one of Kaggle's that differs would be {differ}")  # fmt: skip
    return would, {"competition": competition, "folder": str(output), "there": there}


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise KaggleError(f"{output}: is a file; choose another --output")


def _unpack(archive: Path, folder: Path) -> None:
    """Extract a ZIP file, all or nothing; the checksum of each member is checked."""
    try:
        with zipfile.ZipFile(archive) as file:
            for each in file.namelist():
                _check_inside(each, archive.name)
            file.extractall(folder)
    except zipfile.BadZipFile as error:
        raise KaggleError(f"{archive.name}: is no complete ZIP file ({error}); try again") from None


def _check_inside(name: str, source: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise KaggleError(f"{source}: {name!r} would be written outside of the folder; nothing was")


def _sizes(folder: Path) -> dict[str, int]:
    paths = sorted(each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): each.stat().st_size for each in paths}


def _check_sizes(
    files: dict[str, int], listed: list[dict[str, Any]], complete: bool, competition: str
) -> list[str]:
    """Compare the sizes with Kaggle's list; return notes on what the list cannot confirm."""
    for each in listed:
        found = files.get(each["name"])
        if found is not None and each["bytes"] and found != each["bytes"]:
            raise KaggleError(
                f"{each['name']}: {found:,} bytes came, and {competition} lists {each['bytes']:,}; "
                f"try again"
            )
    missing = [each["name"] for each in listed if each["name"] not in files]
    notes = []
    if missing:
        notes.append(f"Kaggle also lists {len(missing)} files that are not in the archive: "
                     f"{list_names(missing, 5)}")  # fmt: skip
    if not complete:
        checked = len(listed) - len(missing)
        notes.append(f"the sizes of {checked} of {len(files)} files were compared with Kaggle's")
    return notes


def _move(folder: Path, output: Path, files: dict[str, int], overwrite: bool) -> list[str]:
    """Move new files to `output`, each at once; return their names."""
    new, other = [], []
    for name in files:
        there = output / name
        if not there.is_file():
            new.append(name)
        elif not filecmp.cmp(folder / name, there, shallow=False):
            other.append(name)
    if other and not overwrite:
        raise KaggleError(
            f"{output}: {list_names(other, 5)} {'differ' if other[1:] else 'differs'} from what "
            f"Kaggle has now, and nothing was changed; --overwrite replaces, or choose another "
            f"--output"
        )
    for name in sorted(new + other):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(output / name)
    return sorted(new + other)


def next_command(competition: str, found: Download) -> str | None:
    """Return the command that trains on the files; `None` without a training table."""
    from mlx_heads import COMPETITIONS

    names = [name for ending in TABLE_ENDINGS if (name := f"train{ending}") in found.files]
    if not names:
        return None
    train = found.folder / names[0]
    sample = find_companion_files(DataSettings(train=str(train)))["sample_submission"]
    words = [f"mlx-kaggle train --train {train}", *([] if sample else ["--target COLUMN"])]
    words += [f"--set data.competition={competition}"] if competition in COMPETITIONS else []
    return " ".join([*words, f"--output runs/{competition}"])


def find_sample(folder: Path, file: Path | None = None) -> str | None:
    """Return the sample submission in a folder, by its usual names, unless it is `file`."""
    near = DataSettings(train=str(file or folder / "train.csv"))
    return find_companion_files(near)["sample_submission"]
