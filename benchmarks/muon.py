"""The time of one optimizer step: mlx-muon beside mlx.optimizers.Muon and torch.optim.Muon.

    uv run --with torch benchmarks/muon.py [--only CASE ...]

Sets of float32 matrices: those of a GPT, those of ModernBERT-base, and many small ones. Each
variant is a process of its own; they take turns. Results are kept in `docs/benchmarks/muon.json`,
and the table in `docs/benchmarks/muon.md` is written from all of them. Planned for 15 minutes on 2
cores. `--tiny` tests the benchmark itself, and keeps nothing.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from muon.page import page
from muon.shapes import CASES
from turns.processes import Worker, describe_machine, take_turns

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-fastcpu", "mlx-muon", "torch")
# Few at a time beside the reference: a process holds up to 2 GB.
GROUPS = (
    ("ours", "torch-float32"),
    ("ours-bfloat16", "torch"),
    ("mlx-one-thread", "ours-one-thread"),
)
MORE_OF_SMALL = (("ours-native", "polar-express", "nanochat", "mlx-eager"),)
LARGE = ("gpt", "modernbert")
REFERENCE = "mlx"
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE",
                        help=", ".join(CASES))  # fmt: skip
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each variant")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; keep nothing")
    options = parser.parse_args()
    path = DOCS / "muon.json"
    results = json.loads(path.read_text()) if path.exists() and not options.tiny else {}
    for case in options.only:
        found = run_case(case, options.rounds, options.tiny)
        results.setdefault("steps", {})[case] = {"variants": found, **describe_machine(*PACKAGES)}
        if not options.tiny:
            DOCS.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
            (DOCS / "muon.md").write_text(page(results))
    if options.tiny:
        print(page(results))


def run_case(case: str, rounds: int, tiny: bool) -> dict[str, dict]:
    """Measure all variants of a case."""
    found = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:

        def start(variant: str, stack: ExitStack) -> list[Worker]:
            one = {"OPENBLAS_NUM_THREADS": "1"} if variant.endswith("one-thread") else {}
            worker = Worker.start("muon.worker", case, variant, folder, tiny, **one)
            return [stack.enter_context(worker)] if worker else []

        reference = start(REFERENCE, stack)
        for group in GROUPS if case in LARGE else (*GROUPS, *MORE_OF_SMALL):
            with ExitStack() as group_stack:
                workers = [worker for name in group for worker in start(name, group_stack)]
                take_turns([*reference, *workers], rounds)
                found |= {worker.variant: worker.result() for worker in workers}
        found |= {worker.variant: worker.result() for worker in reference}
    return found


if __name__ == "__main__":
    main()
