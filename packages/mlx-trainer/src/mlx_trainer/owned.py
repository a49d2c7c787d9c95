"""Delete files of ours and nothing else: patterns below a folder say which ones are ours."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath


def owned_files(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Yield the files, and links, that match one of the glob patterns."""
    for pattern in dict.fromkeys(patterns):
        for path in folder.glob(pattern):
            if path.is_symlink() or not path.is_dir():
                yield path


def delete_owned(folder: Path, patterns: Iterable[str], last: str = "") -> None:
    """Delete the files that match, `last` at the end, and the folders below that are empty then."""
    owned = sorted(set(owned_files(folder, patterns)), key=lambda path: path == folder / last)
    for path in owned:
        path.unlink()
    for parent in sorted({each for path in owned for each in path.parents}, reverse=True):
        if parent != folder and parent.is_relative_to(folder):
            with contextlib.suppress(OSError):  # one that holds something of others stays
                parent.rmdir()


def sweep(folder: Path, patterns: Iterable[str]) -> None:
    """Delete the temporary files that killed processes left of files that match."""
    for pattern in dict.fromkeys(patterns):
        final = PurePath(pattern)
        stem, suffix = final.stem, final.suffix
        for path in folder.glob(str(final.with_name(f".{stem}.*{suffix}"))):
            writer = path.name.removesuffix(suffix).rpartition(".")[2]  # see write_atomic
            if writer.isdigit() and not _other_process_runs(int(writer)):
                path.unlink(missing_ok=True)


def _other_process_runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return number != os.getpid()
