"""Show progress on standard error: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS = 10.0  # between two lines


@contextmanager
def track(total: int, unit: str, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of units that were done."""
    if not shown:
        yield lambda count: None
    elif sys.stderr.isatty():
        from rich.console import Console  # half of the import time of a command
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(unit, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield _lines(total, unit)


def _lines(total: int, unit: str) -> Callable[[int], None]:
    done, printed = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        if done >= total or time.monotonic() - printed >= _SECONDS:
            printed = time.monotonic()
            print(f"{done} of {total} {unit}", file=sys.stderr, flush=True)

    return advance
