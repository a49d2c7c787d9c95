"""Lock a folder, delete files in it by patterns, sync writes to disk."""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath


class FolderLock:
    """An exclusive lock of a folder, held until `close`; the end of a process releases its locks.

    Raises `BlockingIOError` while another process holds it. It has no effect on a file system
    without locks.
    """

    def __init__(self, folder: Path):
        self._descriptor: int | None = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise BlockingIOError(f"{folder}: another process is training in it") from None
        except OSError:
            pass

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    __del__ = close


def owned_files(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Yield the files and links that match one of the glob patterns."""
    for pattern in dict.fromkeys(patterns):
        for path in folder.glob(pattern):
            if path.is_symlink() or not path.is_dir():
                yield path


def delete_owned(folder: Path, patterns: Iterable[str], last: str = "") -> None:
    """Delete the files that match, `last` after the others, and then empty subfolders."""
    owned = sorted(set(owned_files(folder, patterns)), key=lambda path: path == folder / last)
    for path in owned:
        path.unlink()
    for parent in sorted({each for path in owned for each in path.parents}, reverse=True):
        if parent != folder and parent.is_relative_to(folder):
            with contextlib.suppress(OSError):  # a folder with other files is kept
                parent.rmdir()


def delete_run_files(folder: Path, patterns: Iterable[str], last: str, only_check: bool) -> None:
    """Delete a folder if all its files match, `last` after the others; or only check that.

    Raises `FileExistsError` before anything is deleted if there are other files, or links.
    """
    patterns = list(patterns)
    if foreign := [str(path.relative_to(folder)) for path in foreign_files(folder, patterns)]:
        more = f", ... and {len(foreign) - 10} more" if len(foreign) > 10 else ""
        raise FileExistsError(
            f"{folder} has files that no run wrote: {', '.join(foreign[:10])}{more}; nothing was "
            "deleted; move them elsewhere first"
        )
    if not only_check:
        sweep(folder, patterns)
        delete_owned(folder, patterns, last)
        for parent, _, _ in os.walk(folder, topdown=False):  # empty by now, or this fails
            Path(parent).rmdir()


def foreign_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return what nothing here wrote: files that do not match, and all links, to folders too."""
    patterns = list(patterns)
    owned = {*owned_files(folder, patterns), *abandoned_files(folder, patterns)}
    found = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        paths = [Path(parent, name) for name in (*folders, *files)]
        found += [p for p in paths if p.is_symlink() or (not p.is_dir() and p not in owned)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def sweep(folder: Path, patterns: Iterable[str]) -> None:
    """Delete temporary files that killed processes left of the files that match."""
    for path in [*abandoned_files(folder, patterns)]:
        path.unlink(missing_ok=True)


def abandoned_files(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Yield temporary files that killed processes left of the files that match."""
    for pattern in dict.fromkeys(patterns):
        final = PurePath(pattern)
        stem, suffix = final.stem, final.suffix
        for path in folder.glob(str(final.with_name(f".{stem}.*{suffix}"))):
            writer = path.name.removesuffix(suffix).rpartition(".")[2]  # see write_atomic
            if writer.isdigit() and not _other_process_runs(int(writer)):
                yield path


def _other_process_runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return number != os.getpid()


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
