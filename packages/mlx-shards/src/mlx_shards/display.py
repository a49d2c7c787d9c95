"""Progress on standard error: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import time
from types import TracebackType
from typing import TextIO

_SILENCE = 10.0  # seconds between plain lines


class Progress:
    """How many of `total` things (None: not known) are done; use it in a `with` block."""

    def __init__(self, what: str, total: int | None = None, stream: TextIO | None = None):
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._done = 0
        self._printed_at = time.monotonic()
        self._bar = None
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(file=self._stream))
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count some more as done."""
        self._done += count
        if self._bar:
            self._bar.update(self._task, advance=count)
        elif self._done == self._total or time.monotonic() - self._printed_at > _SILENCE:
            self._printed_at = time.monotonic()
            of = f" of {self._total:,}" if self._total is not None else ""
            print(f"{self._done:,}{of} {self._what}", file=self._stream, flush=True)
