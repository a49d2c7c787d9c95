"""Learning rate multipliers: functions of (update, total updates), both counted from 0."""

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]


def constant(update: int, total: int) -> float:
    """Return 1 for every update."""
    return 1.0


def warmup_cosine(warmup: float = 0.1, final: float = 0.0) -> Schedule:
    """Rise linearly to 1 over the share `warmup` of the updates, then fall as a cosine to `final`.

    The first update already has a rate above 0; `final` would be reached one update after the last.
    """
    return _warmup_then(warmup, final, lambda x: (1 + math.cos(math.pi * x)) / 2)


def warmup_linear(warmup: float = 0.1, final: float = 0.0) -> Schedule:
    """Rise linearly to 1 over the share `warmup` of the updates, then fall linearly to `final`."""
    return _warmup_then(warmup, final, lambda x: 1 - x)


def _warmup_then(warmup: float, final: float, fall: Callable[[float], float]) -> Schedule:
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup is a share of all updates, between 0 and 1, got {warmup}")

    def schedule(update: int, total: int) -> float:
        rising = round(warmup * total)
        if update < rising:
            return (update + 1) / rising
        share = min(1.0, (update - rising) / max(1, total - rising))
        return final + (1 - final) * fall(share)

    return schedule
