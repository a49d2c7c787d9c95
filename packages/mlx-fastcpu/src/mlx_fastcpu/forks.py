"""Say so where a forked process uses MLX, which would hang there without a word.

The threads that compute for MLX do not exist in a forked child, so whatever waits for them waits
for ever. In the child `mx.eval` and `mx.async_eval` therefore raise, and any other wait inside
MLX (`print(array)`, `array.item()`) first writes a line to stderr.
"""

import ctypes
import os
import sys
from typing import Any, NoReturn

from mlx_fastcpu.elf import ElfError
from mlx_fastcpu.slots import UnsupportedError, loaded_slots, read_slots, write_slots

MESSAGE = (
    "MLX was used before this process was forked, and hangs in the child: start workers with "
    "multiprocessing.get_context('spawn'), or keep MLX out of them"
)
# std::condition_variable::wait, and what std::future waits with, and how many arguments they take.
WAITS = {
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE": 2,
    "_ZNSt28__atomic_futex_unsigned_base19_M_futex_wait_untilEPjjbNSt6chrono8durationI"
    "lSt5ratioILl1ELl1EEEENS2_IlS3_ILl1ELl1000000000EEEE": 6,
}

_callbacks: list[Any] = []  # an address in a slot keeps nothing alive
_watching = False


def watch_forks() -> None:
    """Warn in every process forked from now on; calling it again changes nothing."""
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
            callback = _speaking(next(iter(before.values())), WAITS[name])
            _callbacks.append(callback)
            address = ctypes.cast(callback, ctypes.c_void_p).value or 0
            write_slots(dict.fromkeys(addresses, address))
    except (ElfError, UnsupportedError, OSError):
        return  # an unknown build: it hangs as it would without us


def _refuse(*_: object) -> NoReturn:
    raise RuntimeError(MESSAGE)


def _speaking(original: int, arguments: int) -> Any:
    """A C function that speaks once, and then waits as `original` does."""
    kind = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * arguments)
    wait, spoken = kind(original), []

    def speak(*values: int) -> int:
        if not spoken:
            spoken.append(True)
            print(f"mlx_fastcpu: {MESSAGE}", file=sys.stderr, flush=True)
        return wait(*values)

    return kind(speak)
