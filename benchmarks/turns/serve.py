"""The side of a process that is told what to measure, one line a time."""

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

from turns.timing import SHORTEST, Calls, Sample, peak_memory, sample


def serve(prepare: Callable[[str, str, int, bool], Calls]) -> None:
    """Prepare what the command line says, CASE VARIANT THREADS [--tiny]; answer until input ends.

    Writes one line of JSON for each line read: a name from the first answer's `calls` is measured
    once, an empty line answers with the peak memory. Whatever else is printed goes to standard
    error.
    """
    case, variant, threads, *flags = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    calls = prepare(case, variant, int(threads), "--tiny" in flags)
    for name in calls.warm:
        calls.measured[name]()
    print(json.dumps({"calls": list(calls.measured), **calls.facts}), file=answers, flush=True)
    for line in sys.stdin:
        name = line.strip()
        answer = asdict(measure(calls.measured[name])) if name else {"peak": peak_memory()}
        print(json.dumps(answer), file=answers, flush=True)
    # Not by returning: MLX 0.32 aborts where a thread with a stream of its own is alive at exit.
    os._exit(0)


def measure(call: Callable[[], object]) -> Sample:
    """Time one call, or as many as fill the shortest time that can be judged."""
    found = sample(call, 1)
    if found.seconds >= SHORTEST:
        return found
    return sample(call, math.ceil(SHORTEST / found.seconds))
