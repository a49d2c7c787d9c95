"""MLX on the CPU beside PyTorch and NumPy: matrix products, encoders, a GPT, quantized layers.

    uv run --with torch --with transformers --with mlx-lm benchmarks/cpu.py [--only CASE ...]

What is not installed is left out. Each variant is a process of its own; those of a group stay alive
and take turns, so that two never compute at once and a slow minute of the machine meets them all.
Results are kept in `docs/benchmarks/cpu.json`, and the tables in `docs/benchmarks/cpu.md` are
written from all of them, so that cases can be run one at a time. The four models are planned for
20 minutes on 2 cores and 20 GB. `--tiny` tests the benchmark itself, and keeps nothing.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from cpu.page import page
from cpu.timing import DIRTY, Sample, summarize

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "benchmarks"
THREADS = 2
PAUSE = 0.5  # seconds between turns, in which a BLAS stops waiting for work in a loop
RETRIES = 2  # more turns for a variant that other processes disturbed


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

        def start(variant: str, stack: ExitStack) -> list["Worker"]:
            worker = Worker.start(case, variant, folder, options.tiny)
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
    return {"variants": found, "machine": describe_machine(), "versions": describe_versions(),
            "date": datetime.date.today().isoformat()}  # fmt: skip


def take_turns(workers: list["Worker"], rounds: int) -> None:
    """Let each worker measure its calls once a round, and disturbed workers again."""
    for count in range(rounds + RETRIES):
        for worker in workers:
            if count < rounds or worker.disturbed():
                time.sleep(PAUSE)
                worker.measure()
                print(worker, flush=True)


def check_parameters(workers: list["Worker"]) -> None:
    """Raise where variants of a model differ in size: they would not be comparable."""
    counts = {worker.variant: worker.facts.get("parameters") for worker in workers}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"the variants differ in their number of parameters: {counts}")


class Worker:
    """A process that measures one variant of one case, and what it found so far."""

    def __init__(self, case: str, variant: str, process: subprocess.Popen, facts: dict):
        self.case = case
        self.variant = variant
        self.process = process
        self.calls = facts.pop("calls")
        self.facts = facts
        self.samples: dict[str, list[Sample]] = {name: [] for name in self.calls}

    @classmethod
    def start(cls, case: str, variant: str, folder: str, tiny: bool) -> Self | None:
        """Start a process and wait until it is warm; `None` where it cannot do the variant."""
        limits = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(THREADS))
        environment = limits | os.environ | {"TMPDIR": folder}
        if variant == "no-compiler":
            environment["MLX_DISABLE_COMPILE"] = "1"
        threads = environment["OMP_NUM_THREADS"]
        command = [sys.executable, "-m", "cpu.worker", case, variant, threads]
        process = subprocess.Popen([*command, "--tiny"] if tiny else command, text=True, cwd=HERE,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   env=environment)  # fmt: skip
        facts = _read(process)
        if facts is None:
            print(f"{case} {variant} is left out: see the error above", flush=True)
            return None
        return cls(case, variant, process, facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def measure(self) -> None:
        """Take one sample of each call."""
        for name in self.calls:
            self.samples[name].append(Sample(**self._ask(name)))

    def disturbed(self) -> bool:
        """Return whether any call has fewer than two clean samples."""
        return any(
            sum(each.foreign <= DIRTY for each in self.samples[name]) < 2 for name in self.calls
        )

    def keep_faster_step(self) -> None:
        """Measure no longer the implementations of the step that turned out slower."""
        steps = [name for name in self.calls if name.startswith("step")]
        best = min(steps, key=lambda name: summarize(self.samples[name])["seconds"])
        self.calls = [name for name in self.calls if name == best or name not in steps]

    def result(self) -> dict:
        """Return what is kept: times by call, peak memory in bytes, facts."""
        times = {name: summarize(samples) for name, samples in self.samples.items() if samples}
        return {"times": times, "peak": self._ask("")["peak"], **self.facts}

    def __str__(self) -> str:
        """Return the last samples on a line."""
        shown = (
            f"{name} {1000 * last.seconds:.4g} ms ({last.foreign:.0%} foreign)"
            for name, last in ((name, self.samples[name][-1]) for name in self.calls)
        )
        return f"{self.case} {self.variant}: {', '.join(shown)}"

    def _ask(self, line: str) -> dict:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = _read(self.process)
        if answer is None:
            raise SystemExit(f"{self.case} {self.variant} ended: see the error above")
        return answer


def _read(process: subprocess.Popen) -> dict | None:
    assert process.stdout
    line = process.stdout.readline()
    return json.loads(line) if line else None


def describe_machine() -> str:
    """Return processor, cores and memory."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
    )
    name = {key.strip(): value.strip() for key, value in fields.items()}.get("model name", "")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{name} {platform.machine()} Linux, {os.cpu_count()} cores, {memory:.0f} GB"


def describe_versions() -> str:
    """Return the versions of what was compared, as far as it is installed."""
    found = [f"Python {platform.python_version()}"]
    for name in ("mlx", "mlx-fastcpu", "numpy", "torch", "transformers", "mlx-lm"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


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
