"""Protect long work from failing outputs: closed streams and unwritable files."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mlx_trainer.folders import sweep


class _LastingStream:
    """A text stream that discards its text once its target is closed or full."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = self.failure or error
        # Replaces the descriptor itself, so that buffered text does not fail again at exit.
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Continue if standard output or error is closed (`| head`) or full; report it at the end.

    Later text of such a stream is lost: use this only for work that also writes files.
    """
    before = sys.stdout, sys.stderr
    streams = [_LastingStream(each) for each in before]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield
    finally:
        for each in streams:
            each.flush()
        sys.stdout, sys.stderr = before
        if failure := streams[0].failure:
            with contextlib.suppress(OSError):
                print(f"standard output failed ({failure.strerror}); it is incomplete",
                      file=sys.stderr, flush=True)  # fmt: skip


def check_output(path: str | Path) -> None:
    """Create the folder of a file to be written later; raise `OSError` if it cannot be written.

    Deletes temporary files of killed writes of the same file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written")
        return
    target = Path(os.path.realpath(path))
    if not path.is_symlink():  # never create the target folder of a link
        target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent, [target.name.replace("[", "[[]")])
    probe = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        if target.is_symlink():  # a link to itself
            target.stat()
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
