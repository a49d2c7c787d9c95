"""Adapters: time and memory of a step beside PEFT, DoRA beside mlx-lm, mixed batches, merging.

    uv run --with torch --with transformers --with peft --with mlx-lm benchmarks/lora.py \\
        --minilm DIR [--only CASE ...]

DIR is a folder of all-MiniLM-L6-v2. What is not installed is left out. Each variant is a process of
its own; those of a group take turns. Results are kept in docs/benchmarks/lora.json, and
docs/benchmarks/lora.md is written from all of them. `--tiny` tests the script, and keeps nothing.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from lora.page import page
from turns.processes import THREADS, Worker, describe_machine, take_turns

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-lora", "mlx-fastcpu", "torch", "peft", "transformers", "mlx-lm")
# Groups of processes that are alive at a time: 16 GB hold three of these.
CASES = {
    "step": (("lora", "peft-lora"), ("dora", "peft-dora"), ("qlora", "qlora-checkpointed"),
             ("full", "peft-full")),
    "dora": (("ours", "lora", "mlx-lm"),),
    "rows": (("float32", "4 bits"),),
}  # fmt: skip
ROUNDS = {"step": 4, "dora": 7, "rows": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minilm", type=Path, help="a folder of all-MiniLM-L6-v2")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "quantized"], metavar="CASE")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; keep nothing")
    options = parser.parse_args()
    path = DOCS / "lora.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for case in options.only or [*CASES, "quantized"]:
        if case == "quantized":
            if options.minilm is None:
                print("quantized is left out: it needs --minilm", flush=True)
                continue
            found = quantized(options.minilm)
        else:
            found = run_case(case, options.tiny)
        kept[case] = {"machine": describe_machine(*PACKAGES), **found}
        if not options.tiny:
            path.write_text(json.dumps(kept, indent=1) + "\n")
    text = page(kept, THREADS)
    if options.tiny:
        print(text)
    else:
        (DOCS / "lora.md").write_text(text)


def run_case(case: str, tiny: bool) -> dict:
    """Let the variants of each group take turns; return what each found."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for group in CASES[case]:
            with ExitStack() as stack:
                started = [Worker.start("lora.worker", case, each, folder, tiny) for each in group]
                workers = [stack.enter_context(each) for each in started if each]
                take_turns(workers, 1 if tiny else ROUNDS[case])
                found |= {worker.variant: worker.result() for worker in workers}
    return {"variants": found}


def quantized(folder: Path) -> dict:
    """Return the tables of `lora.quantized`."""
    from lora import quantized as tables

    return {
        "merge": tables.merge_errors(folder),
        "retention": tables.retention(folder),
        "loftq": tables.loftq_errors(folder),
    }


if __name__ == "__main__":
    main()
