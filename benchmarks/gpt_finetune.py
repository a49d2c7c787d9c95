"""Fine-tuning speed and memory of mlx-gpt and mlx-lm, in turns on one machine.

Each side is a process that trains when it is told to, so that both meet the same load: a round is
some updates of one side, then as many of the other. Both have the same BLAS with as many threads
(mlx-fastcpu gives its BLAS to mlx-lm too), the same model, rows, adapters (rank 8, scale 20, on all
matrices of the blocks), batch of 4 rows and learning rate.

    python benchmarks/gpt_finetune.py --peer VENV/bin/python --work WORK --output docs/benchmarks

WORK is what `build_tiny_llama.py` wrote: `model/` (8 layers of 512, vocabulary of 8,192) and
`data_fixed/`, `data_text/`, `data_chat/` with train.jsonl and valid.jsonl.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Rows, model, batch, updates of a round, rounds, method.
CASES: dict[str, dict[str, Any]] = {
    "fixed rows of 256, LoRA": {"data": "fixed", "updates": 1, "rounds": 8},
    "fixed rows of 256, LoRA, checkpointing": {"data": "fixed", "updates": 1, "rounds": 4,
                                               "checkpoint": True},
    "text rows, LoRA": {"data": "text", "updates": 4, "rounds": 4},
    "chat rows, LoRA": {"data": "chat", "updates": 5, "rounds": 16},
    "fixed rows of 256, all weights of blocks": {"data": "fixed", "updates": 1, "rounds": 3,
                                                 "method": "full"},
    "fixed rows of 256, QLoRA, 1 row": {"data": "fixed", "updates": 1, "rounds": 3, "batch": 1,
                                        "model": "q4", "method": "qlora"},
}  # fmt: skip


class Side:
    """A process that trains: `updates(n)` returns learned tokens and seconds of n updates."""

    def __init__(self, name: str, python: str, case: dict[str, Any], work: Path, threads: int):
        paths = [str(ROOT / "packages" / "mlx-fastcpu" / "src")] if name == "mlx-lm" else []
        count = str(threads)
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": count,
                            "MKL_NUM_THREADS": count, "OMP_NUM_THREADS": count,
                            "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
        command = [python, __file__, "--side", name, "--work", str(work), "--case",
                   json.dumps(case | {"threads": threads})]  # fmt: skip
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)  # fmt: skip

    def updates(self, count: int) -> dict[str, float]:
        """Do so many updates."""
        found = {"targets": 0.0, "seconds": 0.0}
        for _ in range(count):
            print(file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
            while line and not line.startswith("{"):
                line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"a side ended with {self.process.wait()}")
            each = json.loads(line)
            found = {"targets": found["targets"] + each["targets"],
                     "seconds": found["seconds"] + each["seconds"],
                     "peak": each["peak"], "loss": each["loss"]}  # fmt: skip
        return found

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def reply(**values: float) -> None:
    """Send the numbers of an update, and wait for the next one to be asked for."""
    print(json.dumps(values), flush=True)
    if not sys.stdin.readline():
        sys.exit()  # the parent has ended


def train_ours(case: dict[str, Any], work: Path) -> None:
    """Train by mlx-gpt."""
    from mlx_gpt.machine import prepare_machine

    prepare_machine()
    import mlx.core as mx

    from mlx_gpt.training.finetune import Progress, build, update
    from mlx_gpt.training.finetune_settings import (
        FinetuneConfig,
        FinetuneData,
        FinetuneMethod,
        FinetuneTraining,
    )

    name, is_chat = case.get("method", "lora"), case["data"] == "chat"
    data = FinetuneData([str(work / f"data_{case['data']}" / "train.jsonl")],
                        mask="last" if is_chat else "all", max_tokens=512)  # fmt: skip
    training = FinetuneTraining(epochs=100, batch_size=case.get("batch", 4), learning_rate=1e-4,
                                schedule="constant", warmup=0.0, weight_decay=0.0,
                                checkpoint_blocks=case.get("checkpoint", False),
                                threads=case["threads"])  # fmt: skip
    last = 8 if name == "full" else 0
    method = FinetuneMethod(name, rank=8, alpha=160.0, last_layers=last)
    job = build(FinetuneConfig(str(work / case.get("model", "model")), data, method,
                               training=training))  # fmt: skip
    prepare_machine(job.step.threads)
    progress = Progress()
    sys.stdin.readline()
    while True:
        event = update(job, progress)
        reply(targets=event["targets"], seconds=_seconds(event),
              peak=mx.get_peak_memory(), loss=event["loss"])  # fmt: skip


def _seconds(event: dict) -> float:
    return event["tokens"] / event["tokens_per_second"]


def train_mlx_lm(case: dict[str, Any], work: Path) -> None:
    """Train by mlx-lm's own command, whose callback waits."""
    import types

    import mlx_fastcpu

    mlx_fastcpu.activate(threads=case["threads"], cache_limit=2 << 30)
    import mlx_lm.lora as lora
    from mlx_lm import load
    from mlx_lm.tuner.datasets import load_dataset
    from mlx_lm.tuner.trainer import TrainingCallback

    class Waiting(TrainingCallback):
        def on_train_loss_report(self, train_info: dict) -> None:
            seconds = 1 / train_info["iterations_per_second"]
            reply(targets=train_info["tokens_per_second"] * seconds, seconds=seconds,
                  peak=train_info["peak_memory"] * 1e9, loss=train_info["train_loss"])  # fmt: skip

    method = "full" if case.get("method") == "full" else "lora"
    flags = ["--model", str(work / case.get("model", "model")), "--train", "--data",
             str(work / f"data_{case['data']}"), "--iters", "100000", "--batch-size",
             str(case.get("batch", 4)), "--num-layers", "8", "--steps-per-report", "1",
             "--steps-per-eval", "1000000", "--val-batches", "1", "--save-every", "1000000",
             "--learning-rate", "1e-4", "--max-seq-length", "512", "--fine-tune-type", method,
             "--adapter-path", str(work / "peer_adapter")]  # fmt: skip
    flags += ["--grad-checkpoint"] if case.get("checkpoint") else []
    flags += ["--mask-prompt"] if case["data"] == "chat" else []
    given = vars(lora.build_parser().parse_args(flags))
    defaults = {key: value for key, value in lora.CONFIG_DEFAULTS.items() if given.get(key) is None}
    args = types.SimpleNamespace(**(given | defaults))
    model, tokenizer = load(args.model)
    train_set, valid_set, _ = load_dataset(args, tokenizer)
    sys.stdin.readline()
    lora.train_model(args, model, train_set, valid_set, Waiting())


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers of a case: rates of both sides in each round."""
    case = CASES[name]
    sides = {
        "mlx-gpt": Side("mlx-gpt", sys.executable, case, options.work, options.threads),
        "mlx-lm": Side("mlx-lm", options.peer, case, options.work, options.threads),
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    last: dict[str, dict] = {}
    try:
        for side in sides.values():
            side.updates(1 if case["data"] == "fixed" else 4)  # compiles
        for _ in range(case["rounds"]):
            for side, process in sides.items():
                found = last[side] = process.updates(case["updates"])
                rates[side].append(found["targets"] / found["seconds"])
    finally:
        for each in sides.values():
            each.close()
    ratios = [a / b for a, b in zip(rates["mlx-gpt"], rates["mlx-lm"], strict=True)]
    return {
        "rates": rates,
        "ratio": statistics.median(ratios),
        "peak": {side: each["peak"] for side, each in last.items()},
        "loss": {side: each["loss"] for side, each in last.items()},
    }


def table(results: dict[str, Any]) -> list[str]:
    """Return the lines of the report's table."""
    lines = [
        "| case | mlx-gpt: learned tokens/s | mlx-lm | ratio | mlx-gpt: peak MB | mlx-lm |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in results.items():
        ours, theirs = (statistics.median(each["rates"][side]) for side in ("mlx-gpt", "mlx-lm"))
        peaks = [each["peak"][side] / 1e6 for side in ("mlx-gpt", "mlx-lm")]
        lines.append(f"| {name} | {ours:.0f} | {theirs:.0f} | {each['ratio']:.2f} | "
                     f"{peaks[0]:.0f} | {peaks[1]:.0f} |")  # fmt: skip
    return lines


def main() -> None:
    """Measure all cases, or be one side of a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python with mlx-lm.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="Cases that contain one of these words.")
    parser.add_argument("--side"), parser.add_argument("--case", type=json.loads)
    options = parser.parse_args()
    if options.side:
        (train_ours if options.side == "mlx-gpt" else train_mlx_lm)(options.case, options.work)
        return
    results: dict[str, Any] = {}
    if options.output and (before := options.output / "gpt-finetune.json").exists():
        results = json.loads(before.read_text())  # of other cases
    for name in CASES:
        if options.only and not any(word in name for word in options.only):
            continue
        results[name] = measure(name, options)
        print(table({name: results[name]})[-1], flush=True)
        print(json.dumps(results[name]), flush=True)
        if options.output:
            write({each: results[each] for each in CASES if each in results}, options)


def write(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the report."""
    text = REPORT.format(
        table="\n".join(table(results)), threads=options.threads, cores=os.cpu_count(),
        processor=platform.machine(), load=os.getloadavg()[1],
    )  # fmt: skip
    (options.output / "gpt-finetune.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.output / "gpt-finetune.md").write_text(text)


REPORT = """\
# Fine-tuning: mlx-gpt and mlx-lm

`benchmarks/gpt_finetune.py`: a Llama of 32 million parameters (8 layers of 512, vocabulary of
8,192, random weights), float32, on {cores} cores ({processor}), {threads} BLAS thread(s) each, in
turns, case after case; mlx-lm 0.32.2 with mlx-fastcpu's BLAS. Medians over rounds; the ratio is the
median of the ratios of each round. The machine had other work at the time (load {load:.1f}), so
that rates are lower than on a quiet one and only ratios compare.

{table}

Learned tokens are the targets of the loss, without padding; mlx-lm counts one more in each row.
Both train rank 8 on all matrices of the blocks, 4 rows an update. Peak: `mx.get_peak_memory`.
mlx-gpt also has mlx-fastcpu's layers and kernels for this CPU, which it turns on by itself. Chats
are of 20 to 440 tokens: mlx-gpt computes 1.13 tokens for each of them, mlx-lm 1.9.
"""


if __name__ == "__main__":
    main()
