"""Progress on standard error: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import time
from types import TracebackType
from typing import TextIO

_SILENCE = 10.0  # seconds between plain lines
_SHOWN = 10  # reasons for skipping a row


class Progress:
    """How many of `total` things (None: not known) are done; use it in a `with` block."""

    def __init__(self, what: str, total: int | None = None, stream: TextIO | None = None):
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._done = self.skipped = 0
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
            also = skipped_rows(self.skipped)
            print(f"{self._done:,}{of} {self._what}{also}", file=self._stream, flush=True)

    def skip(self, reason: Exception) -> None:
        """Count a row as skipped; the first ones are shown."""
        self.skipped += 1
        if self.skipped <= _SHOWN:
            print(f"skipped {reason}", file=self._stream, flush=True)
        if self._bar:
            self._bar.update(self._task, description=self._what + skipped_rows(self.skipped))


def skipped_rows(count: int) -> str:
    """Return the end of a line that tells of rows that were skipped; nothing for none."""
    return f", {count:,} row{'' if count == 1 else 's'} skipped" if count else ""
