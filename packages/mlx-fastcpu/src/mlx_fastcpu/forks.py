"""Report the use of MLX in a forked process, which would otherwise hang silently.

MLX's threads do not exist in a forked child, so a wait for them never ends. In the child
`mx.eval` and `mx.async_eval` therefore raise, and any other wait inside MLX (`print(array)`,
`array.item()`) first writes a line to stderr.
"""

import ctypes
import os
import sys
from typing import Any, NoReturn

from mlx_fastcpu.slots import UnsupportedError, loaded_slots, read_slots, write_slots

MESSAGE = (
    "MLX was used before this process was forked, and hangs in the child: start workers with "
    "multiprocessing.get_context('spawn'), or keep MLX out of them"
)
# std::condition_variable::wait and the wait of std::future, with their numbers of arguments.
WAITS = {
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE": 2,
    "_ZNSt28__atomic_futex_unsigned_base19_M_futex_wait_untilEPjjbNSt6chrono8durationI"
    "lSt5ratioILl1ELl1EEEENS2_IlS3_ILl1ELl1000000000EEEE": 6,
}

_callbacks: list[Any] = []  # keeps the functions alive whose addresses are in slots
_watching = False


def watch_forks() -> None:
    """Report in every process forked from now on; further calls have no effect."""
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    import mlx.core as mx

    mx.eval = mx.async_eval = _refuse  # type: ignore[assignment]
    try:
        slots = loaded_slots("libmlx.so", lambda name: name in WAITS)
        for name, addresses in slots.items():
            before = read_slots(addresses)
            callback = _reporting_wait(next(iter(before.values())), WAITS[name])
            _callbacks.append(callback)
            address = ctypes.cast(callback, ctypes.c_void_p).value or 0
            write_slots(dict.fromkeys(addresses, address))
    except (UnsupportedError, OSError):
        return  # an unknown build of MLX: it hangs silently


def _refuse(*_: object) -> NoReturn:
    raise RuntimeError(MESSAGE)


def _reporting_wait(original: int, arguments: int) -> Any:
    """Return a C function that writes the message once, and then calls `original`."""
    kind = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * arguments)
    wait, reported = kind(original), []

    def report_and_wait(*values: int) -> int:
        if not reported:
            reported.append(True)
            print(f"mlx_fastcpu: {MESSAGE}", file=sys.stderr, flush=True)
        return wait(*values)

    return kind(report_and_wait)
