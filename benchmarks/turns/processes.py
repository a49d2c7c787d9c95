"""Processes that stay alive and take turns measuring, so that two never compute at once."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from turns.timing import DIRTY, Sample, summarize

HERE = Path(__file__).parent.parent
THREADS = 2
PAUSE = 0.5  # seconds between turns, in which a BLAS stops waiting for work in a loop
RETRIES = 2  # more turns for a variant that other processes disturbed


def take_turns(workers: list["Worker"], rounds: int) -> None:
    """Let each worker measure its calls once a round, and disturbed workers again."""
    for count in range(rounds + RETRIES):
        for worker in workers:
            if count < rounds or worker.disturbed():
                time.sleep(PAUSE)
                worker.measure()
                print(worker, flush=True)


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
    def start(
        cls, module: str, case: str, variant: str, folder: str, tiny: bool = False, **variables: str
    ) -> Self | None:
        """Start `python -m module`, wait until it is warm; `None` where it cannot do the variant.

        `folder` is for temporary files, `variables` for the environment.
        """
        limits = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(THREADS))
        environment = limits | os.environ | {"TMPDIR": folder} | variables
        threads = environment["OMP_NUM_THREADS"]
        command = [sys.executable, "-m", module, case, variant, threads]
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


def describe_machine(*packages: str) -> dict[str, str]:
    """Return processor, cores and memory, the versions of what is installed, and the date."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
    )
    name = {key.strip(): value.strip() for key, value in fields.items()}.get("model name", "")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {
        "machine": f"{name} {platform.machine()} Linux, {os.cpu_count()} cores, {memory:.0f} GB",
        "versions": ", ".join(versions),
        "date": datetime.date.today().isoformat(),
    }
