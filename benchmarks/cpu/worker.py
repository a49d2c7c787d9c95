"""One variant of one case in this process: told what to measure, one line a time.

Run as `python -m cpu.worker CASE VARIANT THREADS [--tiny]` in `benchmarks`. Writes one line of JSON
for each line read: a name from the first answer's `calls` is measured once, an empty line answers
with the peak memory. Whatever else is printed goes to standard error.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

from cpu.sizes import SIZES
from cpu.timing import SHORTEST, Calls, Sample, peak_memory, sample


def main() -> None:
    """Prepare, then answer until the input ends."""
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


def prepare(case: str, variant: str, threads: int, tiny: bool) -> Calls:
    """Import what the variant needs, and nothing else."""
    if case == "matmul" and variant == "numpy":
        from cpu import matmul

        return matmul.prepare(variant, tiny)
    if variant == "torch":
        from cpu import torch_models

        return torch_models.prepare(case, threads, tiny)
    from cpu import variants

    variants.activate(variant)
    if case == "matmul":
        from cpu import matmul

        return matmul.prepare(variant, tiny)
    if case in SIZES:
        from cpu import mlx_models

        return mlx_models.prepare(case, variant, tiny)
    from cpu import quantized

    prepare_quantized = {"qlora": quantized.prepare_qlora, "decode": quantized.prepare_decode}
    return prepare_quantized[case](variant, tiny)


if __name__ == "__main__":
    main()
