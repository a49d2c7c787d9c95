"""Timed samples, and how much of the machine other processes used during each."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SHORTEST = 0.5  # seconds: /proc/stat counts in steps of 10 ms
DIRTY = 0.15


@dataclass(frozen=True)
class Calls:
    """What a worker can measure: calls by name, those to run once before, and facts to keep."""

    measured: dict[str, Callable[[], object]]
    warm: Sequence[str]
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Seconds of one call, and the share of all cores that other processes used meanwhile."""

    seconds: float
    foreign: float


def sample(call: Callable[[], object], repeats: int) -> Sample:
    """Time `repeats` calls in a row."""
    busy, own, started = _busy_seconds(), time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    seconds = time.perf_counter() - started
    foreign = _busy_seconds() - busy - (time.process_time() - own)
    share = max(0.0, foreign) / (seconds * (os.cpu_count() or 1))
    return Sample(seconds / repeats, share)


def summarize(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the median of the clean samples; the least of all where fewer than 2 are clean."""
    clean = [each.seconds for each in samples if each.foreign <= DIRTY]
    seconds = statistics.median(clean) if len(clean) >= 2 else min(s.seconds for s in samples)
    return {"seconds": seconds, "clean": len(clean), "samples": len(samples)}


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _busy_seconds() -> float:
    """Seconds that all cores together were not idle, stolen time included, since the start."""
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user already.
    counts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return (sum(map(int, counts)) - int(counts[3]) - int(counts[4])) / TICKS
