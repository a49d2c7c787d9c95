"""mlx-gpt beside nanochat in PyTorch and mlxchat: training, its losses, and generation.

    uv run --with torch --with filelock --with rustbpe --with requests benchmarks/gpt.py
        --data SHARDS --nanochat CLONE --mlxchat CLONE [--only PART ...] [--quick]

`--data` is a folder of parquet shards with a column `text`, of which the last is held out; the
others are clones of karpathy/nanochat and zhubert/mlxchat, without which these are left out. Their
code runs as it is, each implementation in a process of its own, in turns. Parts: `training` of
depth 4 on the same batches, nanochat and ours from the same first weights; `decode`; `update`, of
the size for which mlxchat's time was first measured. Results are kept in `docs/benchmarks/gpt.json`
part by part; `gpt.md` and the plot are written from all of them. About 20 minutes on 2 cores.
`--quick` tests the benchmark itself, and keeps nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gpt.curves import save_plot
from gpt.page import page
from gpt.settings import DECODED, NUDGED, VARIABLE, Settings
from turns.processes import HERE, PAUSE, THREADS, Worker, describe_machine, take_turns

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-fastcpu", "scipy-openblas32", "numpy", "torch")
TRAINED = ("nanochat", "nanochat-eager", "ours", "mlxchat", "mlxchat-fastcpu")
DECODING = ("nanochat", "ours", "mlxchat", "mlxchat-fastcpu")
UPDATING = ("ours", "mlxchat", "mlxchat-fastcpu")
SEEDS = (0, 1)
CHUNK = 10  # steps of a turn
ROWS = 8


def main() -> None:
    options = parse()
    path = DOCS / "gpt.json"
    results = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(options, folder)
        make_data(options.data, settings, options.seeds)
        for part in options.only:
            found = PARTS[part](settings, options)
            results[part] = {**found, **describe_machine(*PACKAGES)}
            if not options.quick:
                path.write_text(json.dumps(results, indent=1) + "\n")
        docs = Path(folder) if options.quick else DOCS
        (docs / "gpt.md").write_text(page(results))
        if "training" in results:
            save_plot(results["training"], docs / "gpt.png")
        if options.quick:
            print(page(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of parquet shards")
    parser.add_argument("--nanochat", type=Path, help="clone of karpathy/nanochat")
    parser.add_argument("--mlxchat", type=Path, help="clone of zhubert/mlxchat")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=", ".join(PARTS))  # fmt: skip
    parser.add_argument("--steps", type=int, default=80, help="of training, a multiple of 10")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS),
                        help="the first for all, the others for nanochat alone")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few steps; keep nothing")
    options = parser.parse_args()
    for name in ("nanochat", "mlxchat"):
        given = getattr(options, name)
        if given and not (given / name / "gpt.py").is_file():
            parser.error(f"--{name}: there is no {name}/gpt.py in {given}")
    if options.steps < 2 * CHUNK or options.steps % CHUNK:
        parser.error(f"--steps must be a multiple of 10, at least 20, got {options.steps}")
    return options


def make_settings(options: argparse.Namespace, folder: str) -> Settings:
    """Write down for the processes what is measured."""
    nanochat, mlxchat = (
        str(given.resolve()) if given else None for given in (options.nanochat, options.mlxchat)
    )
    steps, chunk, rows = (3, 1, 4) if options.quick else (options.steps, CHUNK, ROWS)
    settings = Settings(folder, nanochat, mlxchat, steps, chunk, rows)
    settings.save()
    return settings


def make_data(data: Path, settings: Settings, seeds: Sequence[int]) -> None:
    """Train the tokenizer and write the batches, in a process of their own."""
    command = [sys.executable, "-m", "gpt.data", str(data.resolve()), *map(str, seeds)]
    environment = os.environ | {VARIABLE: str(settings.file)}
    subprocess.run(command, cwd=HERE, env=environment, check=True)


def train(settings: Settings, options: argparse.Namespace) -> dict:
    """All with the first seed, in turns; then nanochat alone, for the noise in its losses."""
    first, *others = options.seeds
    with ExitStack() as stack:
        workers = start(f"training-{first}", TRAINED, settings, stack)
        train_in_turns(workers)
        variants = {worker.variant: worker.result() for worker in workers}
    losses = {first: {name: report(settings, f"training-{first}", name) for name in variants}}
    again = [(first, NUDGED), *((seed, "nanochat") for seed in others)]
    for seed, variant in again:
        case = f"training-{seed}"
        with ExitStack() as stack:
            workers = start(case, (variant,), settings, stack)
            train_in_turns(workers)
        if workers:
            losses.setdefault(seed, {})[variant] = report(settings, case, variant)
    shape = {"rows": settings.rows, "length": settings.model.length}
    return {"variants": variants, "losses": losses, "steps": settings.steps, **shape}


def train_in_turns(workers: list[Worker]) -> None:
    """Let all train to their last step; what was disturbed cannot be measured again."""
    for turn in range(max((each.facts["turns"] for each in workers), default=0)):
        for worker in workers:
            if turn < worker.facts["turns"]:
                time.sleep(PAUSE)
                worker.measure()
                print(worker, flush=True)


def decode(settings: Settings, options: argparse.Namespace) -> dict:
    """Seconds per token of each model, by length of the cache."""
    found = {}
    for size in DECODED:
        with ExitStack() as stack:
            workers = start(f"decode-{size}", DECODING, settings, stack)
            take_turns(workers, 1 if options.quick else 3)
            found[size] = {
                each.variant: {**each.result(), "tokens": report(settings, each.case, each.variant)}
                for each in workers
            }
    return {"models": found}


def update(settings: Settings, options: argparse.Namespace) -> dict:
    """Seconds of an update, and of what comes after its gradients."""
    with ExitStack() as stack:
        workers = start("update", UPDATING, settings, stack)
        take_turns(workers, 1 if options.quick else 3)
        return {"variants": {each.variant: each.result() for each in workers}}


def start(case: str, variants: Sequence[str], settings: Settings, stack: ExitStack) -> list[Worker]:
    """Start the processes of a case, but those of a peer that is not there."""
    workers = []
    for variant in variants:
        peer = variant.split("-")[0]
        if peer != "ours" and getattr(settings, peer) is None:
            print(f"{case} {variant} is left out: --{peer} was not given", flush=True)
            continue
        variables = {"OPENBLAS_NUM_THREADS": str(THREADS), "OMP_NUM_THREADS": str(THREADS)}
        variables[VARIABLE] = str(settings.file)
        worker = Worker.start("gpt.worker", case, variant, settings.folder, False, **variables)
        workers += [stack.enter_context(worker)] if worker else []
    return workers


def report(settings: Settings, case: str, variant: str) -> dict:
    """Return what a process wrote down."""
    return json.loads(settings.path(f"{case}-{variant}.json").read_text())


PARTS = {"training": train, "decode": decode, "update": update}

if __name__ == "__main__":
    main()
