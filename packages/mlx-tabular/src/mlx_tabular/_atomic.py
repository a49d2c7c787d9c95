# Vendored: byte-identical in every package that has it; `tools/check_vendored.py` compares.
"""Replace a file in one step, so that a reader or a crash never sees half of it."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, sync that file, rename it to `path`.

    A link stays a link, and devices and FIFOs are written through. An `OSError` names `path`.
    """
    path = Path(path)
    through = path.is_relative_to("/dev") or (path.exists() and not path.is_file())
    target = path if through else Path(os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if through else target.parent
    temporary = folder / f".{target.stem}.{os.getpid()}{target.suffix}"
    try:
        write(temporary)
        if through:
            with temporary.open("rb") as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            return
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except OSError as error:
        error.filename = str(path)  # not the temporary one, nor none at all
        raise
    except RuntimeError as error:
        if not str(error).startswith("[write]"):
            raise
        # What MLX says when a disk is full.
        raise OSError(f"{path} cannot be written; is the disk full? ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
