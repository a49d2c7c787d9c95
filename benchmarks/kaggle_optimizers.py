"""AdamW and Muon in `mlx-kaggle train` on the same rows; cases of `kaggle.py`.

AG News, 2,000 rows to train on and 2,000 to score, from `train.csv` in an order fixed by a seed.
One number of each optimizer is chosen by training on three quarters of the former and scoring the
last quarter: the learning rate of AdamW, and for Muon, with that rate, `muon_rate`. The rows to
score count only for the runs with what was chosen, with three seeds. The linear model and the
numbers are off, so that scores are the network's own.
"""

import argparse
import csv
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROWS = 2000
SEEDS = (1, 2, 3)
RATES = "training.learning_rate"
MUON_RATES = "training.muon_rate"
# AdamW's rates around that of the preset, Muon's multiples of it, and flags.
CASES: dict[str, tuple[dict[str, tuple[float, ...]], tuple[str, ...]]] = {
    "ag-news-quick-optimizers": (
        {"adamw": (1e-3, 3e-3, 1e-2), "muon": (1, 3, 10, 30)},
        ("--preset", "quick"),
    ),
    # One epoch of MiniLM is what two cores do in minutes.
    "ag-news-standard-optimizers": (
        {"adamw": (5e-5, 1.5e-4, 5e-4), "muon": (1, 3, 10, 30)},
        ("--preset", "standard", "--set", "training.epochs=1", "--set", "training.batch_size=32",
         "--set", "text.tta=1"),
    ),
}  # fmt: skip

RunMeasured = Callable[[list[str]], tuple[str, int]]


def compare(case: str, options: argparse.Namespace, run_measured: RunMeasured) -> dict:
    """Tune and score both optimizers; return what `section` shows."""
    grids, flags = CASES[case]
    if "standard" in flags:
        flags = (*flags, "--encoder", str(options.minilm))
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(options.data / "ag-news" / "train.csv", folder, options.rows)

        def run(optimizer: str, numbers: dict[str, float], seed: int, part: str) -> dict:
            settings = [f"--set={name}={value}" for name, value in numbers.items()]
            command = [sys.executable, "-m", "mlx_kaggle.cli", "train", *flags, "--overwrite",
                       "--train", str(folder / f"{part}train.csv"),
                       "--val", str(folder / f"{part}val.csv"),
                       "--target", "label", "--metric", "accuracy", "--optimizer", optimizer,
                       "--seed", str(seed), *settings, "--set", "head.words=false",
                       "--numeric-features", "off", "--members", "text",
                       "--output", str(folder / "run")]  # fmt: skip
            _, peak = run_measured(command)
            done = outcome(folder / "run", peak)
            print(case, optimizer, numbers, seed, part, json.dumps(done), flush=True)
            return done

        chosen: dict[str, float] = {}
        for optimizer, tuned in (("adamw", RATES), ("muon", MUON_RATES)):
            values = grids[optimizer]
            tuning = [run(optimizer, chosen | {tuned: value}, 0, "tune_") for value in values]
            best = max(range(len(values)), key=lambda at: tuning[at]["accuracy"])
            chosen[tuned] = values[best]
            runs = [run(optimizer, chosen, seed, "") for seed in SEEDS]
            found[optimizer] = {"values": values, "tuning": tuning, "best": best, "runs": runs}
    return {"rows": options.rows, "optimizers": found}


def write_tables(source: Path, folder: Path, rows: int) -> None:
    """Write the tables to train on and to score, and those to choose the rate with."""
    with source.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    random.Random(0).shuffle(table)
    train, val = table[:rows], table[rows : 2 * rows]
    cut = rows * 3 // 4
    parts = {"train": train, "val": val, "tune_train": train[:cut], "tune_val": train[cut:]}
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            # Without class_index, which is the answer as a number.
            columns = ["id", "title", "description", "label"]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(part)


def outcome(run: Path, peak: int) -> dict:
    """Return scores, last training loss and peak memory of a run."""
    scores = json.loads((run / "summary.json").read_text())["scores"]["text"]
    (member,) = (run / "members").glob("fold-*")
    loss = json.loads((member / "history.json").read_text())[-1]["train_loss"]
    numbers = {name: round(value, 5) for name, value in {**scores, "train_loss": loss}.items()}
    return {**numbers, "peak_gb": round(peak / 1e9, 2)}


def section(results: dict[str, dict]) -> list[str]:
    """Return the part of the page that compares optimizers, empty before any was measured."""
    found = {case: results[case] for case in CASES if case in results}
    if not found:
        return []
    return [
        "",
        "## Optimizer",
        "",
        "`--optimizer adamw` and `muon` on AG News: 2,000 rows to train on, 2,000 others scored.",
        "The network alone, without the linear model beside it. Chosen by accuracy on a quarter of",
        "the training rows, with the rest to train on: AdamW's learning rate; then with that rate",
        "`training.muon_rate`, the multiple of it that Muon's matrices get. Then three runs with",
        "other seeds on all 2,000 rows, whose mean (and range) is shown. `quick` is the preset;",
        "`standard` is one epoch of the real all-MiniLM-L6-v2, batches of 32, lower half frozen.",
        "",
        "| case | optimizer | accuracy while choosing | chosen | accuracy | log loss "
        "| training loss | peak memory |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for case, each in found.items() for row in _rows(case, each)),
    ]


def _rows(case: str, found: dict) -> list[list[str]]:
    rows = []
    for optimizer, each in found["optimizers"].items():
        values, best, runs = each["values"], each["best"], each["runs"]
        tried = [f"{value:g}: {run['accuracy']:.4f}"
                 for value, run in zip(values, each["tuning"], strict=True)]  # fmt: skip
        edge = " (edge)" if best in (0, len(values) - 1) else ""
        rows.append([
            case.removesuffix("-optimizers"),
            optimizer,
            ", ".join(tried),
            f"{values[best]:g}{edge}",
            *(_mean([run[name] for run in runs]) for name in ("accuracy", "log_loss",
                                                              "train_loss")),
            f"{max(run['peak_gb'] for run in runs):.1f} GB",
        ])  # fmt: skip
    return rows


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4f} ({min(values):.4f} to {max(values):.4f})"
