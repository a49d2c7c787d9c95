"""Progress on standard error: a bar on a terminal, occasional plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from mlx_trainer.distributed import rank

# Without a terminal: a line at every tenth of the work, and after this many seconds without one.
_SHARES = 10
_SILENCE = 30.0


class Progress:
    """The progress of `total` units of work; use it in a `with` block.

    On a terminal a bar with rate and time left, which needs the extra `progress` (rich); without
    rich or a terminal, plain lines. `stream` is standard error by default.
    """

    def __init__(
        self, total: int, description: str = "", stream: TextIO | None = None, completed: int = 0
    ):
        if total < 1:
            raise ValueError(f"Progress: total must be at least 1, got {total}")
        self.total = total
        self.description = description
        self.stream = stream or sys.stderr
        self.completed = completed
        self._bar = _rich_bar(self.stream) if self.stream.isatty() else None

    def __enter__(self) -> "Progress":
        self._started = self._printed_at = time.monotonic()
        self._before = self._printed = self.completed
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=self.completed, values=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif self._printed != self.completed:
            self._print("")

    def advance(self, amount: int = 1, **values: float) -> None:
        """Count `amount` more units as done; show the newest `values`, such as `loss=0.3`."""
        self.completed += amount
        shown = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        if self._bar:
            shown = f"{self._rate():.3g}/s  {shown}"
            self._bar.update(self._task, advance=amount, values=shown)
            return
        next_share = self.completed * _SHARES // self.total > self._printed * _SHARES // self.total
        if next_share or time.monotonic() - self._printed_at > _SILENCE:
            self._print(shown)

    def _rate(self) -> float:
        return (self.completed - self._before) / max(time.monotonic() - self._started, 1e-9)

    def _print(self, shown: str) -> None:
        self._printed, self._printed_at = self.completed, time.monotonic()
        rate = self._rate()
        left = f"  {(self.total - self.completed) / rate:.0f} s left" if rate else ""
        line = f"{self.description} {self.completed}/{self.total}  {rate:.3g}/s{left}  {shown}"
        print(line.strip(), file=self.stream, flush=True)


class Display:
    """Lines and one bar on standard error, of rank zero only; use it in a `with` block."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._is_quiet = rank() != 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._is_quiet:
            # Not `click.echo`: it bypasses the stderr that rich replaces, and breaks the bar.
            print(line, file=sys.stderr, flush=True)

    def start(self, total: int, description: str, completed: int = 0) -> None:
        """Show a bar of `total` units of work, which replaces the last one."""
        self.close()
        if not self._is_quiet:
            self._bar = Progress(total, description, completed=completed)
            self._bar.__enter__()

    @property
    def completed(self) -> int:
        """The units of work done according to the bar, 0 without one."""
        return self._bar.completed if self._bar else 0

    def advance(self, amount: int = 1, **values: float) -> None:
        """Move the bar, and show the newest `values`, such as `loss=0.3`."""
        if self._bar:
            self._bar.advance(amount, **values)

    def close(self) -> None:
        """End the bar."""
        if self._bar:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"


def _rich_bar(stream: TextIO):
    """Return an unstarted rich bar on `stream`, None if rich is not installed."""
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[values]}"),
        console=Console(file=stream),
    )
