"""MLX on the CPU beside PyTorch and NumPy: matrix products, encoders, a GPT, quantized layers.

    uv run --with torch --with transformers --with mlx-lm benchmarks/cpu.py [--only CASE ...]

What is not installed is left out. Each variant is a process of its own; those of a group stay alive
and take turns, so that two never compute at once and a slow minute of the machine meets them all.
Results are kept in `docs/benchmarks/cpu.json`, and the tables in `docs/benchmarks/cpu.md` are
written from all of them, so that cases can be run one at a time. The four models are planned for
20 minutes on 2 cores and 20 GB. `--tiny` tests the benchmark itself, and keeps nothing.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cpu.page import page
from turns.processes import Worker, describe_machine, take_turns

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-fastcpu", "numpy", "torch", "transformers", "mlx-lm")


@dataclass(frozen=True)
class Case:
    """Variants by group, with the rounds of each group; `reference` takes part in all of them."""

    groups: tuple[tuple[int, tuple[str, ...]], ...]
    reference: str | None = None


def encoder_case(rounds: int) -> Case:
    """Return the case of a model, few processes at once: each may hold 7 GB."""
    groups = (("ours-native-2", "ours-native"), ("ours", "no-compiler"), ("blas", "stock"))
    counts = (rounds, rounds, min(rounds, 2))
    return Case(tuple(zip(counts, groups, strict=True)), reference="torch")


CASES = {
    "matmul": Case(((5, ("numpy", "blas", "stock")),)),
    "minilm": encoder_case(5),
    "bert-base": encoder_case(2),
    "modernbert-base": Case(
        (
            *((2, (each,)) for each in ("ours-native-2", "ours-native", "ours", "no-compiler")),
            (2, ("blas", "stock")),
        ),
        reference="torch",
    ),
    "d6": encoder_case(5),
    "qlora": Case(((2, ("ours", "blas")),)),
    "decode": Case(((5, ("ours", "blas", "stock")),)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE",
                        help=", ".join(CASES))  # fmt: skip
    parser.add_argument("--rounds", type=int, help="turns of each variant in every case")
    names = {name for plan in CASES.values() for _, group in plan.groups for name in group}
    parser.add_argument("--variants", nargs="+", choices=sorted(names), metavar="VARIANT",
                        help=f"only of {', '.join(sorted(names))}; keep nothing")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; keep nothing")
    options = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("this compares ways to compute on Linux CPUs; elsewhere use the GPU")
    results = {}
    for case in options.only:
        found = run_case(case, options)
        if options.tiny or options.variants:
            results[case] = found
        else:
            save(case, found)
    if results:
        print(page(results))


def run_case(case: str, options: argparse.Namespace) -> dict:
    """Measure all variants of a case; return what is kept of it."""
    plan = CASES[case]
    wanted = options.variants or [name for _, group in plan.groups for name in group]
    found: dict[str, dict] = {}
    # Compiled kernels are kept in the temporary folder, under names without the compiler's flags.
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:

        def start(variant: str, stack: ExitStack) -> list[Worker]:
            off = {"MLX_DISABLE_COMPILE": "1"} if variant == "no-compiler" else {}
            worker = Worker.start("cpu.worker", case, variant, folder, options.tiny, **off)
            return [stack.enter_context(worker)] if worker else []

        reference = start(plan.reference, stack) if plan.reference else []
        for rounds, group in plan.groups:
            with ExitStack() as group_stack:
                names = [name for name in group if name in wanted]
                workers = [worker for name in names for worker in start(name, group_stack)]
                check_parameters([*reference, *workers])
                if workers:
                    take_turns([*reference, *workers], options.rounds or rounds)
                    for worker in reference:
                        worker.keep_faster_step()
                found |= {worker.variant: worker.result() for worker in workers}
        found |= {worker.variant: worker.result() for worker in reference}
    return {"variants": found, **describe_machine(*PACKAGES)}


def check_parameters(workers: list[Worker]) -> None:
    """Raise where variants of a model differ in size: they would not be comparable."""
    counts = {worker.variant: worker.facts.get("parameters") for worker in workers}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"the variants differ in their number of parameters: {counts}")


def save(case: str, found: dict) -> None:
    """Put a case into the kept results, and write the page from all of them."""
    DOCS.mkdir(parents=True, exist_ok=True)
    path = DOCS / "cpu.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[case] = found
    path.write_text(json.dumps(results, indent=1) + "\n")
    (DOCS / "cpu.md").write_text(page(results))


if __name__ == "__main__":
    main()
